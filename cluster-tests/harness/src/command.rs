//! Runs commands of the product to their end, and checks what they print.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

/// Longer than any command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);

/// What a command has printed, and how it ended.
#[derive(Clone, Debug)]
pub struct CommandOutput {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// Asserts that the command has succeeded.
    #[track_caller]
    pub fn assert_success(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Asserts that the command has failed, and has said so.
    #[track_caller]
    pub fn assert_failure(&self) -> &Self {
        assert_eq!(self.code, Some(1), "{self}");
        assert!(!self.text().contains("panicked at"), "{self}");
        self
    }

    /// Asserts that it has printed all of `words`, wherever its lines end.
    #[track_caller]
    pub fn assert_mentions(&self, words: &[&str]) -> &Self {
        let text = self.text();
        for word in words {
            assert!(text.contains(word), "{word:?} is not printed:\n{self}");
        }
        self
    }

    /// Returns all that was printed, with one space in place of each space or end of a line.
    pub fn text(&self) -> String {
        let words = self.stdout.split_whitespace();
        let words: Vec<&str> = words.chain(self.stderr.split_whitespace()).collect();
        words.join(" ")
    }

    /// Returns the standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON: {error}\n{self}"))
    }

    /// Returns the lines of the standard output, each of which is JSON.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let lines = self.stdout.lines().map(serde_json::from_str);
        let lines: Result<Vec<Value>, _> = lines.collect();
        lines.unwrap_or_else(|error| panic!("no JSON: {error}\n{self}"))
    }
}

impl std::fmt::Display for CommandOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            stdout,
            stderr,
        } = self;
        write!(f, "exit code {code:?}\n{stdout}\n{stderr}")
    }
}

/// A command that runs; killed when dropped.
#[derive(Debug)]
pub struct RunningCommand {
    child: tokio::process::Child,
}

impl RunningCommand {
    /// Starts a command.
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        Self {
            child: command.kill_on_drop(true).spawn().expect("start a command"),
        }
    }

    /// Returns the process ID, as long as its end isn't known.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it with SIGKILL, and waits for its end.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("kill a command");
    }

    /// Waits for its end.
    pub async fn wait(self) -> CommandOutput {
        let output = timeout(COMMAND_TIMEOUT, self.child.wait_with_output()).await;
        let output = output.expect("a command ends in time");
        let output = output.expect("wait for a command");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        CommandOutput {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// Runs a command to its end.
pub async fn run_command(command: Command) -> CommandOutput {
    RunningCommand::start(command).wait().await
}
