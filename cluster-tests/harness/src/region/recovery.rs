//! Recovers groups of a region by force, as an operator does who has lost their majority.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lifecycle::{FORM_TIMEOUT, Region};
use crate::eventually;

/// Groups that one command recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryScope {
    /// The metadata.
    Metadata,
    /// The shards of a node; where there are other regions, its region.
    Shards,
}

impl RecoveryScope {
    /// Returns the words of the operator's command.
    pub fn command(self) -> [&'static str; 2] {
        match self {
            Self::Metadata => ["metadata", "recover"],
            Self::Shards => ["shard", "recover"],
        }
    }
}

impl Region {
    /// Returns what a node reports of a recovery; `None` if it doesn't answer, or has started only
    /// just now. A report without a confirmation changes nothing, and its command fails.
    pub async fn recovery_report(&self, seat: usize, scope: RecoveryScope) -> Option<Value> {
        let [group, action] = scope.command();
        let output = self.run_admin(seat, &[group, action, "--json"]).await;
        output.assert_failure();
        serde_json::from_str(&output.stdout).ok()
    }

    /// Waits until a node reports that it can recover all groups of which it tells, or its region as
    /// a whole, and returns the report.
    pub async fn wait_recoverable(&self, seat: usize, scope: RecoveryScope) -> Value {
        let what = format!("node {seat} can recover {scope:?}");
        eventually(&what, FORM_TIMEOUT, async || {
            let report = self.recovery_report(seat, scope).await?;
            let mut groups = report["groups"].as_array()?.iter();
            let is_whole = groups.all(|group| group["refusal"].is_null());
            let is_whole = is_whole || report["rejoins"] == true;
            (is_whole && report["refusal"].is_null()).then_some(report)
        })
        .await
    }

    /// Confirms a recovery with the text of its report. The node stops then.
    pub async fn confirm_recovery(&self, seat: usize, scope: RecoveryScope, report: &Value) {
        let text = report["confirmation"].as_str().expect("a confirmation");
        let [group, action] = scope.command();
        let confirm = [group, action, "--confirm", text];
        self.run_admin(seat, &confirm).await.assert_success();
    }

    /// Recovers groups at a node by force: waits until that is possible, confirms it, and starts the
    /// node again. Returns the report.
    pub async fn recover(&mut self, seat: usize, scope: RecoveryScope) -> Value {
        let report = self.wait_recoverable(seat, scope).await;
        self.confirm_recovery(seat, scope, &report).await;
        let status = self.wait_exit(seat).await;
        let log = self.nodes[seat].log().tail();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("start the node again"), "{log}");
        self.restart(seat).await;
        report
    }

    /// Kills a node, which may be exiting by itself.
    pub async fn kill_even_if_exiting(&mut self, seat: usize) {
        let pid = self.nodes[seat].pid().expect("a node that was started");
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        // Its exit status wasn't taken yet, so it can be signalled even if it has exited.
        kill_process(pid.expect("a pid"), Signal::KILL).expect("kill the node");
        self.wait_exit(seat).await;
    }

    /// Kills nodes, and removes all that they had.
    pub fn destroy(&mut self, seats: &[usize]) {
        for seat in seats {
            self.kill(*seat);
        }
        for seat in seats {
            self.nodes[*seat].wipe();
        }
    }
}
