//! Spawns the tasks that run until the node stops.

use std::sync::Arc;
use std::time::Duration;

use super::node::Node;
use crate::cluster::NodeListWriter;
use crate::event_log::EventWatcher;
use crate::raft::LogMaintenance;
use crate::store::measure_disk_space;

/// Interval at which responses get a new replication lag.
const LAG_PUBLISH_INTERVAL: Duration = Duration::from_millis(250);

impl Node {
    /// Spawns the maintenance of clock, disk and logs.
    pub(super) fn spawn_maintenance(&self) {
        let components = &self.components;
        let stop = || self.stop.groups.clone();
        let clock = components.groups.clock.clone();
        self.tasks.spawn(clock.run_discipline(stop()));
        let maintenance = LogMaintenance {
            engine: components.engine.clone(),
            groups: components.groups.all(),
            budget: components.log_budget.clone(),
            disk_space: components.disk_space.clone(),
            write_buffer_bytes: self.config.write_buffer_mib.bytes(),
        };
        self.tasks.spawn(maintenance.run(stop()));
        let disk_space = components.disk_space.clone();
        self.tasks.spawn(measure_disk_space(disk_space, stop()));
    }

    /// Spawns the log of events around the node.
    pub(super) fn spawn_event_log(&self) {
        let components = &self.components;
        let events = EventWatcher::new(
            components.groups.clone(),
            components.readiness.clone(),
            components.region_monitor(),
            self.started_at,
        );
        self.tasks.spawn(events.run(self.stop.groups.clone()));
    }

    /// Spawns the writer of the list of nodes, and returns it.
    pub(super) fn spawn_node_list(&self) -> Arc<NodeListWriter> {
        let catalog = self.components.groups.catalog.clone();
        let data_dir = self.components.data_dir.clone();
        let writer = Arc::new(NodeListWriter::new(catalog, data_dir));
        let write = writer.clone().run(self.stop.groups.clone());
        self.tasks.spawn(write);
        writer
    }

    /// Spawns the service's tasks, and the publication of the replication lag.
    pub(super) fn spawn_service_tasks(&self) {
        let directory = &self.service.directory;
        let stop = || self.stop.groups.clone();
        self.tasks
            .spawn(directory.clone().sweep_deleted_buckets(stop()));
        self.tasks
            .spawn(directory.clone().run_space_reclaim(stop()));
        self.tasks.spawn(directory.clone().run_read_reports(stop()));
        let failure_detector = self.components.groups.failure_detector.clone();
        let expire = directory.clone();
        let expire = expire.expire_accounts(move || failure_detector.is_clock_ok(), stop());
        self.tasks.spawn(expire);
        let (regions, api) = (self.components.region_monitor(), self.api.clone());
        let publish_lag = async move {
            loop {
                api.set_replication_lag(&regions.format_inbound_lag());
                tokio::time::sleep(LAG_PUBLISH_INTERVAL).await;
            }
        };
        let stop_publishing = stop();
        self.tasks
            .spawn(async move { stop_publishing.run_until_cancelled(publish_lag).await });
    }
}
