//! The tasks of the replication between regions: one per shard, and one for the retention budget.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::replication::GeoReplication;
use super::{budget_enforcement, controller};

impl GeoReplication {
    /// Controls the replication of all shards until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        for (number, shard) in (0..).zip(&self.shards) {
            let controller = controller::run(self.clone(), number, shard.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(controller));
        }
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(budget_enforcement::run(self.clone())),
        );
        tasks.close();
        tasks.wait().await;
    }
}
