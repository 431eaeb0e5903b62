//! `admin backup`: has a node make a backup, and shows the progress.

use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use axum::body::Body;
use cloudkv_common::admin::{LineResponse, call_lines};
use http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::signal::ctrl_c;

use super::client::AdminCallError;
use super::counts::{format_count, format_megabytes};
use super::output::{Output, print};
use super::requests::refusal;
use crate::backup::BackupLine;
use crate::config::{AdminCall, BackupFlags};

/// Time for the node to begin its answer.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between two lines of progress where they don't replace each other.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Makes a backup, and prints its progress and its result to `out`.
pub(super) async fn run(
    call: &AdminCall,
    flags: &BackupFlags,
    out: Output<'_>,
) -> Result<(), AdminCallError> {
    let mut printer = Printer::new(flags.json, stdout().is_terminal());
    let made = tokio::select! {
        made = make(call, flags, &mut printer, out) => made,
        // Closes the connection, at which the node ends the backup.
        Ok(()) = ctrl_c() => Err(interrupted(flags, "it was interrupted".to_owned())),
    };
    if made.is_err() {
        // The error gets a line of its own. It matters more than an output that is closed.
        let _ = print(out, &printer.after_progress(""));
    }
    made
}

async fn make(
    call: &AdminCall,
    flags: &BackupFlags,
    printer: &mut Printer,
    out: Output<'_>,
) -> Result<(), AdminCallError> {
    let mut response = begin(call, flags).await?;
    loop {
        let line = response.next_line().await;
        let line = line.map_err(|error| interrupted(flags, error.to_string()))?;
        let Some(line) = line else {
            let message = "the node has ended it early, as when it stops";
            return Err(interrupted(flags, message.to_owned()));
        };
        let parsed: BackupLine = serde_json::from_str(&line).map_err(|source| {
            let target = call.target.clone();
            AdminCallError::NotJson { target, source }
        })?;
        printer.print(&line, &parsed, out)?;
        match parsed {
            BackupLine::End { .. } => return Ok(()),
            BackupLine::Failed { message, .. } => return Err(interrupted(flags, message)),
            BackupLine::Begin { .. } | BackupLine::Progress { .. } => {}
        }
    }
}

fn interrupted(flags: &BackupFlags, message: String) -> AdminCallError {
    AdminCallError::BackupInterrupted {
        message,
        is_new: flags.new,
    }
}

async fn begin(call: &AdminCall, flags: &BackupFlags) -> Result<LineResponse, AdminCallError> {
    let body = json!({ "to": flags.to, "new": flags.new });
    let request = Request::post("/backups").header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body.to_string()));
    let request = request.map_err(cloudkv_common::admin::ClientError::from)?;
    let token = call.token.as_ref();
    let mut response = call_lines(&call.target, request, token, BEGIN_TIMEOUT).await?;
    if response.status == StatusCode::OK {
        return Ok(response);
    }
    let text = response.next_line().await?.unwrap_or_default();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    Err(refusal(call, response.status, &body))
}

/// Prints the lines of a backup.
struct Printer {
    is_json: bool,
    is_terminal: bool,
    /// True if the backup goes on with one that has complete shards: their records were not read by
    /// this call, so that its time tells no rate.
    has_kept_shards: bool,
    /// Time of the last line of progress.
    last: Option<Instant>,
}

impl Printer {
    fn new(is_json: bool, is_terminal: bool) -> Self {
        Self {
            is_json,
            is_terminal,
            has_kept_shards: false,
            last: None,
        }
    }

    fn print(
        &mut self,
        line: &str,
        parsed: &BackupLine,
        out: Output<'_>,
    ) -> Result<(), AdminCallError> {
        if self.is_json {
            return print(out, &format!("{line}\n"));
        }
        let text = match parsed {
            BackupLine::Progress { .. } => match self.progress(&self.describe(parsed)) {
                Some(text) => text,
                None => return Ok(()),
            },
            // The error of the command says it.
            BackupLine::Failed { .. } => return Ok(()),
            BackupLine::Begin { kept_shards, .. } => {
                self.has_kept_shards = *kept_shards > 0;
                format!("{}\n", self.describe(parsed))
            }
            BackupLine::End { .. } => {
                let text = self.describe(parsed);
                self.after_progress(&format!("{text}\n"))
            }
        };
        print(out, &text)
    }

    /// Returns what shows a line of progress, if it is due.
    fn progress(&mut self, text: &str) -> Option<String> {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        if self.is_terminal {
            self.last = Some(Instant::now());
            // The rest of the line before it is erased.
            return Some(format!("\r{text}\x1b[K"));
        }
        is_due.then(|| {
            self.last = Some(Instant::now());
            format!("{text}\n")
        })
    }

    /// Returns a text behind the line of progress that a terminal shows.
    fn after_progress(&mut self, text: &str) -> String {
        match self.last.take() {
            Some(_) if self.is_terminal => format!("\n{text}"),
            Some(_) | None => text.to_owned(),
        }
    }

    /// Describes a line for people.
    fn describe(&self, line: &BackupLine) -> String {
        match line {
            BackupLine::Begin {
                id,
                resumed: false,
                shards,
                ..
            } => format!(
                "backup {id} of {} begins",
                format_count(u64::from(*shards), "shard")
            ),
            BackupLine::Begin {
                id,
                kept_shards,
                shards,
                ..
            } => format!("backup {id} goes on: it has {kept_shards} of {shards} shards already"),
            BackupLine::Progress {
                shard,
                shards,
                records,
                bytes,
                seconds,
            } => format!(
                "{}: {}, {}, {:.0} records/s, {}/s",
                describe_step(*shard, *shards),
                format_count(*records, "record"),
                format_megabytes(*bytes),
                rate(*records, *seconds),
                format_megabytes(rate(*bytes, *seconds) as u64)
            ),
            BackupLine::End {
                id,
                records,
                bytes,
                seconds,
                ..
            } => format!(
                "backup {id} is complete: {}, {} in {seconds:.1} s{}",
                format_count(*records, "record"),
                format_megabytes(*bytes),
                self.describe_rate(*records, *seconds)
            ),
            BackupLine::Failed { message, .. } => message.clone(),
        }
    }

    /// Describes the rate of all records, unless this call has read only some of them.
    fn describe_rate(&self, records: u64, seconds: f64) -> String {
        if self.has_kept_shards {
            return String::new();
        }
        format!(" ({:.0} records/s)", rate(records, seconds))
    }
}

fn describe_step(shard: u16, shards: u16) -> String {
    if shard < shards {
        format!("shard {} of {shards}", shard + 1)
    } else {
        "metadata".to_owned()
    }
}

/// Returns a number a second.
fn rate(number: u64, seconds: f64) -> f64 {
    number as f64 / seconds.max(0.001)
}

#[cfg(test)]
#[path = "backup_command_tests.rs"]
mod tests;
