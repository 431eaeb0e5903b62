//! `admin metadata recover` and `admin shard recover`: what a recovery by force would do, and the
//! recovery.

use std::fmt::Write as _;

use http::Method;
use serde_json::json;

use super::client::{AdminCallError, get_report};
use super::output::{Output, print, print_result};
use super::recovery_report::{RecoveryGroup, RecoveryReport, RecoveryScope};
use super::requests::{parse_body, submit_change, success_body};
use crate::config::AdminCall;
use crate::raft::LogPosition;

/// Shows the report, or carries out the recovery if `confirm` is its text.
pub(super) async fn run(
    call: &AdminCall,
    scope: RecoveryScope,
    (confirm, is_json): (Option<&str>, bool),
    out: Output<'_>,
) -> Result<(), AdminCallError> {
    let path = format!("/recovery/{}", scope.name());
    if let Some(text) = confirm {
        let body = json!({ "confirm": text });
        let confirmed = submit_change(call, Method::POST, &path, &body).await?;
        if is_json {
            return print_result(out, &format!("{confirmed:#}\n"));
        }
        let report: RecoveryReport = parse_body(call, confirmed)?;
        return print_result(out, &describe_begun(&report));
    }
    let body = get_report(&call.target, &path, call.token.as_ref()).await?;
    let body = success_body(call, body)?;
    if is_json {
        print(out, &format!("{body:#}\n"))?;
    }
    let report: RecoveryReport = parse_body(call, body)?;
    if !is_json {
        print(out, &describe(&report))?;
    }
    Err(match report.refusal {
        Some(reason) => AdminCallError::NotRecoverable { reason },
        None => AdminCallError::NotConfirmed {
            command: command(call, scope),
            text: report.confirmation,
        },
    })
}

/// Command that shows the report, and carries out the recovery with its text.
fn command(call: &AdminCall, scope: RecoveryScope) -> String {
    let name = match scope {
        RecoveryScope::Metadata => "metadata",
        RecoveryScope::Shards => "shard",
    };
    format!("cloudkv-node admin --admin {} {name} recover", call.target)
}

fn describe_begun(report: &RecoveryReport) -> String {
    let mut text = format!(
        "node {} stores the recovery, and stops: start it again, and it carries it out\n",
        report.node
    );
    add_sentences(&mut text, "", &report.next);
    text
}

fn describe(report: &RecoveryReport) -> String {
    let mut text = format!(
        "recovery by force at node {}, region {}\n",
        report.node, report.region
    );
    for group in &report.groups {
        add_group(&mut text, group);
    }
    if !report.lost.is_empty() {
        let lost = report.lost.join(", ");
        let _ = writeln!(text, "declared lost, and refused for ever: {lost}");
    }
    if !report.unreachable.is_empty() {
        let names = report.unreachable.join(", ");
        let _ = writeln!(text, "not reached, but not declared lost: {names}");
    }
    add_sentences(&mut text, "what may be lost:\n", &report.losses);
    add_sentences(&mut text, "what happens:\n", &report.next);
    text
}

fn add_group(text: &mut String, group: &RecoveryGroup) {
    let _ = writeln!(
        text,
        "{}: voters {}; not reached: {}",
        group.group,
        names(&group.voters),
        names(&group.lost)
    );
    let committed = match group.committed {
        Some(index) => format!(", committed up to {index}"),
        None => String::new(),
    };
    let _ = writeln!(
        text,
        "  last entry here: {}{committed}",
        position(group.last)
    );
    for other in &group.others {
        let last = position(other.last);
        let _ = writeln!(
            text,
            "  last entry of {} ({}): {last}",
            other.node, other.role
        );
    }
    if let Some(leader) = &group.lead_by {
        let _ = writeln!(text, "  last led by {leader}");
    }
    if let Some(reason) = &group.refusal {
        let _ = writeln!(text, "  not recovered here: {reason}");
    }
}

fn names(nodes: &[String]) -> String {
    if nodes.is_empty() {
        "none".to_owned()
    } else {
        nodes.join(", ")
    }
}

fn position(last: Option<LogPosition>) -> String {
    last.map_or_else(
        || "none".to_owned(),
        |last| format!("{} of term {}", last.index, last.term),
    )
}

fn add_sentences(text: &mut String, title: &str, sentences: &[String]) {
    if sentences.is_empty() {
        return;
    }
    text.push_str(title);
    for sentence in sentences {
        let _ = writeln!(text, "  {sentence}");
    }
}

#[cfg(test)]
#[path = "recover_command_tests.rs"]
mod tests;
