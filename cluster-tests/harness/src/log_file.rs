//! Reads the log that a node wrote to its standard error.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Number of a log's last lines that a failed test prints.
const TAIL_LINES: usize = 60;

/// A log file: JSON, one event per line, except for panics and the output of libraries.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
}

impl LogFile {
    /// Refers to the log at this path.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the whole log so far.
    pub fn text(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the last lines.
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Returns the lines that need an operator's action: events of level ERROR, and panics.
    pub fn errors(&self) -> Vec<String> {
        self.text()
            .lines()
            .filter(|line| is_error(line))
            .map(str::to_owned)
            .collect()
    }
}

fn is_error(line: &str) -> bool {
    match serde_json::from_str::<Value>(line) {
        Ok(event) => event["level"] == "ERROR",
        Err(_) => line.contains(" ERROR ") || line.contains("panicked at"),
    }
}

#[cfg(test)]
mod tests {
    use super::is_error;

    #[test]
    fn errors_are_distinguished_from_mentions_of_errors() {
        assert!(is_error(
            r#"{"level":"ERROR","fields":{"message":"disk full"}}"#
        ));
        assert!(is_error("2026-01-01T00:00:00Z ERROR cloudkv: disk full"));
        assert!(is_error("thread 'main' panicked at src/main.rs:1:1:"));
        assert!(!is_error(
            r#"{"level":"WARN","fields":{"message":"an ERROR elsewhere"}}"#
        ));
        assert!(!is_error(""));
    }
}
