//! `cloudkv-node admin status`: availability, tolerance of the next loss, and findings that need an
//! operator.
//!
//! Normal state is left out unless it is requested, and nodes are shown by name. Programs use the
//! JSON that all of it is made from (`docs/STATUS.md`).
//!
//! | file | contents |
//! | --- | --- |
//! | `model` | the JSON as types |
//! | `names` | names of nodes |
//! | `headline` | the first line |
//! | `attention` | findings that need an operator |
//! | `view` | the page |
//! | `text` | tables, units, line wrapping |

mod attention;
mod headline;
mod model;
mod names;
#[cfg(test)]
mod tests;
mod text;
mod view;

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;

use super::client::CallError;
use super::commands::{Out, ask, ask_status, print};
use crate::config::{OperatorCall, StatusFlags};
use model::Status;

/// Interval between two pages of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Escape sequence that clears the terminal and moves to its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the status of a node.
pub(super) async fn show(
    call: &OperatorCall,
    flags: &StatusFlags,
    out: Out<'_>,
) -> Result<(), CallError> {
    if flags.watch {
        return watch(call, flags.verbose, out).await;
    }
    if flags.json && !flags.check {
        return print(out, &format!("{:#}\n", ask(call, "/status").await?));
    }
    let json = ask_status(call).await?;
    let status = read(call, &json)?;
    if flags.json {
        print(out, &format!("{json:#}\n"))?;
    } else {
        print(out, &view::page(&status, flags.verbose))?;
    }
    match attention::of(&status).len() {
        count if flags.check && count > 0 => Err(CallError::Attention { count }),
        _ => Ok(()),
    }
}

/// Shows the status repeatedly. An error of a call is shown, too, and doesn't end it.
async fn watch(call: &OperatorCall, verbose: bool, out: Out<'_>) -> Result<(), CallError> {
    let prefix = if std::io::stdout().is_terminal() {
        CLEAR
    } else {
        ""
    };
    loop {
        let page = match ask_status(call).await {
            Ok(json) => view::page(&read(call, &json)?, verbose),
            Err(error) => format!("{error}\n"),
        };
        print(out, &format!("{prefix}{page}\n"))?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn read(call: &OperatorCall, json: &Value) -> Result<Status, CallError> {
    serde_json::from_value(json.clone()).map_err(|source| CallError::NotJson {
        target: call.target.clone(),
        source,
    })
}
