//! `cloudkv-node admin status`: availability, tolerance of the next loss, and findings that need an
//! operator.
//!
//! Normal state is left out unless it is requested, and nodes are shown by name. Programs use the
//! JSON that all of it is made from (`docs/operations/status.md`).
//!
//! | file | contents |
//! | --- | --- |
//! | `model` | the JSON as types |
//! | `names` | names of nodes |
//! | `headline` | the first line |
//! | `attention` | findings that need an operator |
//! | `view` | the page |
//! | `frames` | frames of `--watch` |
//! | `text` | tables, units, line wrapping |

mod attention;
mod frames;
mod headline;
mod model;
mod names;
#[cfg(test)]
mod tests;
mod text;
mod view;

use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use super::client::AdminCallError;
use super::output::{Output, print, print_result};
use super::requests::{fetch_any_status, fetch_status, parse_body};
use crate::config::{AdminCall, StatusFlags};
use frames::WatchFrames;
use model::StatusReport;

/// Interval between two pages of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Escape sequence that clears the terminal and moves to its top.
const CLEAR_TERMINAL: &str = "\x1b[H\x1b[2J";

/// Shows the status of a node.
pub(super) async fn show(
    call: &AdminCall,
    flags: &StatusFlags,
    out: Output<'_>,
) -> Result<(), AdminCallError> {
    if flags.watch {
        return watch(call, flags.verbose, out).await;
    }
    if flags.json && !flags.check {
        return print_result(out, &format!("{:#}\n", fetch_any_status(call).await?));
    }
    let json = fetch_status(call).await?;
    let status: StatusReport = parse_body(call, json.clone())?;
    if flags.json {
        print_result(out, &format!("{json:#}\n"))?;
    } else {
        print_result(out, &view::page(&status, flags.verbose))?;
    }
    match attention::findings(&status).len() {
        count if flags.check && count > 0 => Err(AdminCallError::NeedsAttention { count }),
        _ => Ok(()),
    }
}

/// Shows the status repeatedly, until nobody reads it any more. An error of a call is shown, too,
/// and doesn't end it.
async fn watch(call: &AdminCall, verbose: bool, out: Output<'_>) -> Result<(), AdminCallError> {
    let is_terminal = std::io::stdout().is_terminal();
    let prefix = if is_terminal { CLEAR_TERMINAL } else { "" };
    let mut frames = WatchFrames::new(is_terminal);
    loop {
        let page = match fetch_status(call).await {
            Ok(json) => Ok(view::page(&parse_body(call, json)?, verbose)),
            Err(error) => Err(error),
        };
        let frame = frames.build(SystemTime::now(), page);
        match print(out, &format!("{prefix}{frame}\n")) {
            Err(error) if error.is_closed_pipe() => return Ok(()),
            printed => printed?,
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}
