//! `cloudkv-node admin decommission`: shows the consequences, starts it, and waits for its end.

use std::time::Duration;

use hyper::Method;
use serde_json::json;

use super::client::CallError;
use super::commands::{Out, ask, print, tell};
use super::nodes::{ChangeBody, Departure, NodeChange};
use crate::config::OperatorCall;

/// Interval at which the progress is polled.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of consecutive polls without a response, after one with a response.
const MAX_SILENT_POLLS: u32 = 10;

/// Path of a change of a node, which is named by its number, its name or its address.
pub(super) fn path_of(node: &str, change: NodeChange) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    let encoded: String = node
        .bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    format!("/nodes/{encoded}/{}", change.name())
}

/// Decommissions a node, if that is allowed: `yes` allows that its region survives less. With
/// `wait`, shows the progress until the node is removed.
pub(super) async fn run(
    call: &OperatorCall,
    node: &str,
    (yes, wait): (bool, bool),
    out: Out<'_>,
) -> Result<(), CallError> {
    let report = progress(call, node).await?;
    let number = report.node.to_string();
    if report.obstacle.is_none() && report.state == "active" {
        print(out, &outlook(&report))?;
    }
    let body = json!(ChangeBody { confirm: yes });
    tell(
        call,
        Method::POST,
        &path_of(&number, NodeChange::Decommission),
        &body,
    )
    .await?;
    let name = &report.name;
    if wait {
        return follow(call, &number, name, out).await;
    }
    print(
        out,
        &format!(
            "node {name}: its shards move to other nodes; when it holds none it is removed, and \
             its process ends. `admin decommission {name} --wait` shows the progress, and until \
             then `admin recommission {name}` cancels it\n"
        ),
    )
}

async fn progress(call: &OperatorCall, node: &str) -> Result<Departure, CallError> {
    let report = ask(call, &path_of(node, NodeChange::Decommission)).await?;
    serde_json::from_value(report).map_err(|source| CallError::NotJson {
        target: call.target.clone(),
        source,
    })
}

/// Describes the losses that the region survives, with and without the node.
fn outlook(report: &Departure) -> String {
    let Departure {
        name,
        region,
        survives_now,
        survives_without,
        metadata_voters_now: now,
        metadata_voters_without: without,
        ..
    } = report;
    let mut text = format!(
        "region {region} survives\n  \
         with node {name}: {survives_now}\n  \
         without it: {survives_without}\n"
    );
    if now != without {
        text += &format!(
            "accounts and buckets are kept by {} with it, by {} without\n",
            voters(*now),
            voters(*without)
        );
    }
    text
}

fn voters(count: usize) -> String {
    match count {
        1 => "1 voter".to_owned(),
        _ => format!("{count} voters"),
    }
}

/// Shows the groups that are still to be moved, until the node is removed.
async fn follow(
    call: &OperatorCall,
    number: &str,
    name: &str,
    out: Out<'_>,
) -> Result<(), CallError> {
    let (mut last, mut silent_polls) = (None, 0);
    loop {
        match progress(call, number).await {
            Ok(report) if report.state == "removed" => break,
            Ok(report) if report.state == "active" => {
                let name = name.to_owned();
                return Err(CallError::Recommissioned { name });
            }
            Ok(report) => {
                silent_polls = 0;
                let remaining = report.groups.len();
                if last.replace(remaining) != Some(remaining) {
                    print(out, &format!("node {name}: {}\n", to_move(&report)))?;
                }
            }
            // The decommissioned node may be the one that is polled: it ends when it is removed.
            Err(error @ CallError::Connect { .. }) if last.is_some() => {
                silent_polls += 1;
                if silent_polls > MAX_SILENT_POLLS {
                    let name = name.to_owned();
                    let source = Box::new(error);
                    return Err(CallError::NoMoreProgress { name, source });
                }
            }
            Err(CallError::Refused { status, .. }) if status.is_server_error() => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PROGRESS_INTERVAL).await;
    }
    print(
        out,
        &format!(
            "node {name}: removed from the cluster; its process ends by itself, and its data \
             directory can be deleted\n"
        ),
    )
}

fn to_move(report: &Departure) -> String {
    match report.groups.len() {
        0 => "holds nothing any more, and is about to be removed".to_owned(),
        _ => format!("still needed for {}", report.groups.join(", ")),
    }
}
