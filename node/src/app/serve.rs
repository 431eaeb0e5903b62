//! Serves users until a stop is requested.

use std::io;

use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::ports::PublicListeners;
use super::start_log;
use super::starting_port::StartingPort;

impl Node {
    /// Recovers, then serves users until a stop is requested, and until their requests have
    /// completed.
    pub(super) async fn serve(
        &self,
        starting_port: StartingPort,
        listeners: PublicListeners,
    ) -> io::Result<()> {
        // From the start: a region that joins is seeded with everything that the others have, and
        // the log of that must not stay.
        self.spawn_maintenance();
        self.spawn_event_log();
        let node_list = self.spawn_node_list();
        let stop = &self.stop.node;
        let report = |step| starting_port.set_waiting_for(step);
        let serving = self.components.wait_until_serving(report);
        if stop.run_until_cancelled(serving).await.is_none() {
            return Ok(());
        }
        node_list.save_changes().await;
        self.spawn_service_tasks();
        self.spawn_recovered_import();
        starting_port.close().await;
        let region = &self.components.groups.identity.region;
        let readiness = &self.components.readiness;
        readiness.set_public_port_open();
        start_log::log_serving(readiness, region, listeners.address, self.started_at);
        let drain = CancellationToken::new();
        let serve = listeners.serve(&self.api, &self.http, &drain);
        let shutdown = async {
            stop.cancelled().await;
            // While leadership moves, this node still serves users, and forwards their requests.
            self.stop.placement.cancel();
            self.components.transfer_leaderships().await;
            // Their clients connect again within a second or two: to another node, since this one
            // accepts no connection by then.
            self.service.watches.drain();
            drain.cancel();
            Ok(())
        };
        // Serving ends by itself only on failure.
        futures_util::try_join!(serve, shutdown).map(drop)
    }
}
