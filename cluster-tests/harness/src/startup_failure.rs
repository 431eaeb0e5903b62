//! Runs the node where it is expected to exit by itself: invalid settings, a directory in use.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time for a node to find that it can't start.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Exit of a process that refused to start.
#[derive(Debug)]
pub struct StartupFailure {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Text that it wrote to its standard error.
    pub message: String,
}

impl StartupFailure {
    /// Asserts that the message holds all of `words`.
    #[track_caller]
    pub fn assert_mentions(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(
                self.message.contains(word),
                "the message doesn't name {word:?}: {self:?}"
            );
        }
        self
    }

    /// Asserts that the message holds one of `words`.
    #[track_caller]
    pub fn assert_mentions_any(&self, words: &[&str]) -> &Self {
        let named = words.iter().any(|word| self.message.contains(word));
        assert!(named, "the message names none of {words:?}: {self:?}");
        self
    }
}

/// Runs a command that must exit by itself.
pub async fn run_to_exit(mut command: Command) -> StartupFailure {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the node");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for the node") {
            break Some(status);
        }
        if started.elapsed() > EXIT_TIMEOUT {
            child.kill().expect("kill the node");
            child.wait().expect("wait for the killed node");
            break None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut message = String::new();
    child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut message)
        .expect("read its errors");
    // A start that fails is told once, and not as the end of its tasks.
    assert!(
        !message.contains("answering users during the start failed"),
        "{message}"
    );
    let status = status.unwrap_or_else(|| panic!("the node started, and should not:\n{message}"));
    StartupFailure {
        code: status.code(),
        message,
    }
}
