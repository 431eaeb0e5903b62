//! Stops a node that serves no user any more, part by part.

use std::time::Duration;

use cloudkv_common::process::SystemError;

use super::errors::RunError;
use super::node::Node;

/// Time for background tasks to end.
const TASK_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Time for the last read counts to reach their shards before these stop.
const READ_REPORT_TIMEOUT: Duration = Duration::from_secs(2);

impl Node {
    /// Drains what other nodes and routers have forwarded, if the node ends without a failure, and
    /// stops the groups and all tasks. Returns `outcome`, or the failure of stopping.
    pub(super) async fn shut_down(&self, outcome: Result<(), RunError>) -> Result<(), RunError> {
        if outcome.is_ok() {
            self.drain_requests().await;
        }
        self.stop.groups.cancel();
        let stopped = self.components.stop().await;
        self.stop.admin.cancel();
        self.tasks.close();
        if tokio::time::timeout(TASK_SHUTDOWN_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                timeout = ?TASK_SHUTDOWN_TIMEOUT,
                "background tasks did not end in time, aborted"
            );
        }
        outcome?;
        stopped.map_err(SystemError::while_doing("stop the groups"))?;
        tracing::info!("stopped");
        Ok(())
    }

    async fn drain_requests(&self) {
        self.forwarded_drain.drain().await;
        let report = self.service.directory.report_reads();
        if tokio::time::timeout(READ_REPORT_TIMEOUT, report)
            .await
            .is_err()
        {
            tracing::warn!(
                timeout = ?READ_REPORT_TIMEOUT,
                "reporting the last read counts timed out"
            );
        }
    }
}
