//! Checks of a region's logs and of its nodes' exits.

use std::process::ExitStatus;
use std::thread;

use super::lifecycle::Region;
use super::node_process::NodeProcess;

/// Texts with which nodes report failing disks, and damage that failed reads have left.
const DISK_ERRORS: [&str; 7] = [
    "os error 5",
    "os error 28",
    "IO error",
    "No space left",
    "damaged",
    "orruption",
    "Input/output error",
];

/// Errors that calls of a Raft group log after its storage has failed, while its node exits: the
/// group accepts no request any more, or drops one that it has accepted.
const RAFT_STOPPED_ERRORS: [&str; 2] = [
    "with_raft_state: to-Raft tx send error",
    "with_raft_state: rx recv error: channel closed",
];

impl Region {
    /// Allows errors of disks in the logs from here on.
    pub fn expect_disk_errors(&mut self) {
        self.expect_errors(&DISK_ERRORS);
        self.expect_errors(&RAFT_STOPPED_ERRORS);
    }

    /// Allows errors with one of these texts in the logs from here on, because the test causes
    /// them.
    pub fn expect_errors(&mut self, texts: &[&str]) {
        let texts = texts.iter().map(ToString::to_string);
        self.expected_errors.extend(texts);
    }

    /// Returns the unexpected log lines that need an operator's action, with their seats.
    pub fn unexpected_errors(&self) -> Vec<String> {
        let is_expected = |line: &str| self.expected_errors.iter().any(|text| line.contains(text));
        let of_member = |(seat, member): (usize, &NodeProcess)| {
            let errors = member.log().errors().into_iter();
            let errors = errors.filter(|line| !is_expected(line));
            errors
                .map(|line| format!("node {seat}: {line}"))
                .collect::<Vec<_>>()
        };
        self.nodes.iter().enumerate().flat_map(of_member).collect()
    }

    /// Takes the exits of nodes that were allowed to exit by themselves; these don't run any more.
    pub async fn take_allowed_exits(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut exits = vec![];
        for seat in 0..self.nodes.len() {
            let member = &mut self.nodes[seat];
            if member.is_exit_allowed() && member.exit_status().is_some() {
                exits.push((seat, self.wait_exit(seat).await));
            }
        }
        exits
    }

    /// Describes nodes that exited although nobody stopped them.
    pub fn unexpected_exits(&mut self) -> Vec<String> {
        let members = self.nodes.iter_mut().enumerate();
        members
            .filter(|(_, member)| !member.is_exit_allowed())
            .filter_map(|(seat, member)| {
                let status = member.exit_status()?;
                let tail = member.log().tail();
                Some(format!("node {seat} exited by itself: {status}\n{tail}"))
            })
            .collect()
    }
}

impl NodeProcess {
    /// Allows the node to exit by itself until it is started again, if it says why: its disk fails.
    pub fn allow_exit(&mut self) {
        if self.exit_allowed_from.is_none() {
            self.exit_allowed_from = Some(self.log.text().len());
        }
    }

    /// Returns whether the node may exit by itself.
    pub(super) fn is_exit_allowed(&self) -> bool {
        self.exit_allowed_from.is_some()
    }

    /// Checks the exit of a node that was allowed to exit: its last message must name the disk, and
    /// its exit code must be 1.
    pub fn check_exit(&self, status: ExitStatus) -> Result<(), String> {
        let before = self.exit_allowed_from.unwrap_or_default();
        let text = self.log.text();
        let names_disk = |line: &str| {
            let message = line.strip_prefix("cloudkv-node: ");
            message.is_some_and(|message| DISK_ERRORS.iter().any(|error| message.contains(error)))
        };
        let logged = text.get(before..).unwrap_or_default();
        if status.code() == Some(1) && logged.lines().any(names_disk) {
            return Ok(());
        }
        let (dir, tail) = (self.dir.display(), self.log.tail());
        Err(format!(
            "{dir} exited with {status} and no clear error\n{tail}"
        ))
    }
}

impl Drop for Region {
    /// Prints the logs' ends if the test is failing; otherwise fails it if they hold errors.
    fn drop(&mut self) {
        if thread::panicking() {
            for member in self
                .nodes
                .iter()
                .filter(|member| !member.log().text().is_empty())
            {
                let log = member.log();
                eprintln!("--- end of {} ---\n{}", log.path().display(), log.tail());
            }
            return;
        }
        let errors = self.unexpected_errors().join("\n");
        assert!(errors.is_empty(), "nodes logged errors:\n{errors}");
    }
}
