//! What a region's logs say when it ends.

use std::thread;

use super::cluster::Region;

impl Region {
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
        let of_member = |(seat, member): (usize, &super::Member)| {
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

    /// Nodes that ended although nobody stopped them.
    pub fn unexpected_ends(&mut self) -> Vec<String> {
        let members = self.members.iter_mut().enumerate();
        members
            .filter_map(|(seat, member)| {
                let status = member.ended()?;
                let tail = member.log().tail();
                Some(format!("node {seat} ended by itself: {status}\n{tail}"))
            })
            .collect()
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
