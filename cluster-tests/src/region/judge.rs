//! What a region's logs say when it ends.

use std::process::ExitStatus;
use std::thread;

use super::cluster::Region;
use super::member::Member;

/// What nodes say of disks that fail, and of damage that failed reads have left.
const DISK_ERRORS: [&str; 7] = [
    "os error 5",
    "os error 28",
    "IO error",
    "No space left",
    "damaged",
    "orruption",
    "Input/output error",
];

/// What calls of a Raft group log that an error of its storage has just ended, while its node ends:
/// the group takes no request any more, or drops one that it has taken.
const RAFT_ENDED: [&str; 2] = [
    "with_raft_state: to-Raft tx send error",
    "with_raft_state: rx recv error: channel closed",
];

impl Region {
    /// Disks fail from here on, and logs may say so.
    pub(crate) fn expect_disk_errors(&mut self) {
        self.expect_errors(&DISK_ERRORS);
        self.expect_errors(&RAFT_ENDED);
    }

    /// From here on a log may hold errors with one of these words: this test causes them.
    pub fn expect_errors(&mut self, words: &[&str]) {
        let words = words.iter().map(ToString::to_string);
        self.errors_expected.extend(words);
    }

    /// Lines of the logs that say that a person must act, and weren't expected, with their seats.
    pub fn unexpected_errors(&self) -> Vec<String> {
        let expected = |line: &str| {
            self.errors_expected
                .iter()
                .any(|words| line.contains(words))
        };
        let of_member = |(seat, member): (usize, &Member)| {
            let errors = member.log().errors().into_iter();
            let errors = errors.filter(|line| !expected(line));
            errors
                .map(|line| format!("node {seat}: {line}"))
                .collect::<Vec<_>>()
        };
        self.members
            .iter()
            .enumerate()
            .flat_map(of_member)
            .collect()
    }

    /// Nodes that were allowed to end by themselves and did; they don't run any more.
    pub(crate) async fn take_allowed_ends(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut ended = vec![];
        for seat in 0..self.members.len() {
            let member = &mut self.members[seat];
            if member.may_end() && member.ended().is_some() {
                ended.push((seat, self.wait_exit(seat).await));
            }
        }
        ended
    }

    /// Nodes that ended although nobody stopped them.
    pub fn unexpected_ends(&mut self) -> Vec<String> {
        let members = self.members.iter_mut().enumerate();
        members
            .filter(|(_, member)| !member.may_end())
            .filter_map(|(seat, member)| {
                let status = member.ended()?;
                let tail = member.log().tail();
                Some(format!("node {seat} ended by itself: {status}\n{tail}"))
            })
            .collect()
    }
}

impl Member {
    /// Its disk fails: until it is started again it may end by itself, if it says why.
    pub(crate) fn allow_end(&mut self) {
        if self.may_end.is_none() {
            self.may_end = Some(self.log.text().len());
        }
    }

    /// Whether it may end by itself.
    pub(super) fn may_end(&self) -> bool {
        self.may_end.is_some()
    }

    /// What is wrong with the end of a node that was allowed to end: its last words must name the
    /// disk, and its exit code be 1.
    pub(crate) fn judge_end(&self, status: ExitStatus) -> Result<(), String> {
        let before = self.may_end.unwrap_or_default();
        let text = self.log.text();
        let names_disk = |line: &str| {
            let words = line.strip_prefix("cloudkv-node: ");
            words.is_some_and(|words| DISK_ERRORS.iter().any(|error| words.contains(error)))
        };
        let logged = text.get(before..).unwrap_or_default();
        if status.code() == Some(1) && logged.lines().any(names_disk) {
            return Ok(());
        }
        let (dir, tail) = (self.dir.display(), self.log.tail());
        Err(format!(
            "{dir} ended with {status} and no clear error\n{tail}"
        ))
    }
}

impl Drop for Region {
    /// Prints the logs' ends if the test is failing; otherwise fails it if they hold errors.
    fn drop(&mut self) {
        if thread::panicking() {
            for member in self
                .members
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
