//! `cloudkv-node admin status`: what is served, what the next loss costs, what needs a person.
//!
//! What is normal is left out unless it is asked for, and numbers of nodes are shown by name. For
//! programs there is the JSON that all of it is made from (`docs/STATUS.md`).
//!
//! | file | what it does |
//! | --- | --- |
//! | `model` | the JSON as types |
//! | `names` | what nodes are called |
//! | `headline` | the first line |
//! | `attention` | what needs a person |
//! | `view` | the page |
//! | `text` | tables, units, lines that fit |

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

/// Between two pages of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears a terminal, and begins at its top.
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
    let told = ask_status(call).await?;
    let status = read(call, &told)?;
    if flags.json {
        print(out, &format!("{told:#}\n"))?;
    } else {
        print(out, &view::page(&status, flags.verbose))?;
    }
    match attention::of(&status).len() {
        count if flags.check && count > 0 => Err(CallError::Attention { count }),
        _ => Ok(()),
    }
}

/// Shows it again and again. That a node gives no answer is shown, too, and doesn't end it.
async fn watch(call: &OperatorCall, verbose: bool, out: Out<'_>) -> Result<(), CallError> {
    let before = if std::io::stdout().is_terminal() {
        CLEAR
    } else {
        ""
    };
    loop {
        let page = match ask_status(call).await {
            Ok(told) => view::page(&read(call, &told)?, verbose),
            Err(error) => format!("{error}\n"),
        };
        print(out, &format!("{before}{page}\n"))?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn read(call: &OperatorCall, told: &Value) -> Result<Status, CallError> {
    serde_json::from_value(told.clone()).map_err(|source| CallError::NotJson {
        target: call.target.clone(),
        source,
    })
}
