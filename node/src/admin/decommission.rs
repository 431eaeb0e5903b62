//! `cloudkv-node admin decommission`: shows the consequences, starts it, and waits for its end.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::client::AdminCallError;
use super::node_change::{ChangeBody, DecommissionReport, NodeChange};
use super::output::{Output, print};
use super::requests::{fetch, parse_body, submit_change};
use crate::config::AdminCall;

/// Interval at which the progress is polled.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of consecutive polls without a response, after one with a response.
const MAX_SILENT_POLLS: u32 = 10;

/// Path of a change of a node, which is named by its number, its name or its address.
pub(super) fn change_path(node: &str, change: NodeChange) -> String {
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
    call: &AdminCall,
    node: &str,
    (yes, wait): (bool, bool),
    out: Output<'_>,
) -> Result<(), AdminCallError> {
    let report = fetch_report(call, node).await?;
    let number = report.node.to_string();
    if report.obstacle.is_none() && report.state == "active" {
        print(out, &format_consequences(&report))?;
    }
    let body = json!(ChangeBody { confirm: yes });
    submit_change(
        call,
        Method::POST,
        &change_path(&number, NodeChange::Decommission),
        &body,
    )
    .await?;
    let name = &report.name;
    if wait {
        return follow_progress(call, &number, name, out).await;
    }
    print(
        out,
        &format!(
            "node {name}: its shards move to other nodes; when it holds none it is removed, and \
             its process ends. `cloudkv-node admin decommission {name} --wait` shows the progress, \
             and until then `cloudkv-node admin recommission {name}` cancels it\n"
        ),
    )
}

async fn fetch_report(call: &AdminCall, node: &str) -> Result<DecommissionReport, AdminCallError> {
    let report = fetch(call, &change_path(node, NodeChange::Decommission)).await?;
    parse_body(call, report)
}

/// Describes the losses that the region survives, with and without the node.
fn format_consequences(report: &DecommissionReport) -> String {
    let DecommissionReport {
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
            format_voters(*now),
            format_voters(*without)
        );
    }
    text
}

fn format_voters(count: usize) -> String {
    match count {
        1 => "1 voter".to_owned(),
        _ => format!("{count} voters"),
    }
}

/// Shows the groups that are still to be moved, until the node is removed.
async fn follow_progress(
    call: &AdminCall,
    number: &str,
    name: &str,
    out: Output<'_>,
) -> Result<(), AdminCallError> {
    let (mut last, mut silent_polls) = (None, 0);
    loop {
        match fetch_report(call, number).await {
            Ok(report) if report.state == "removed" => break,
            Ok(report) if report.state == "active" => {
                let name = name.to_owned();
                return Err(AdminCallError::Recommissioned { name });
            }
            Ok(report) => {
                silent_polls = 0;
                let remaining = report.groups.len();
                if last.replace(remaining) != Some(remaining) {
                    print(
                        out,
                        &format!("node {name}: {}\n", format_remaining(&report)),
                    )?;
                }
            }
            // The decommissioned node may be the one that is polled: it ends when it is removed.
            Err(error @ AdminCallError::Connect { .. }) if last.is_some() => {
                silent_polls += 1;
                if silent_polls > MAX_SILENT_POLLS {
                    let name = name.to_owned();
                    let source = Box::new(error);
                    return Err(AdminCallError::ProgressLost { name, source });
                }
            }
            Err(AdminCallError::Refused { status, .. }) if status.is_server_error() => {}
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

fn format_remaining(report: &DecommissionReport) -> String {
    match report.groups.len() {
        0 => "holds nothing any more, and is about to be removed".to_owned(),
        _ => format!("still needed for {}", report.groups.join(", ")),
    }
}
