//! The commands of `cloudkv-node admin`.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{AdminCallError, get};
use super::decommission::{self, change_path};
use super::node_change::{ChangeBody, NodeChange, describe_successor};
use super::output::{Output, print_result};
use super::plans::{LimitsBody, PlanBody};
use super::recovery_report::RecoveryScope;
use super::render::render;
use super::requests::{check_program, fetch, refusal, submit_change};
use super::{backup_command, backups_command, recover_command, status, verify};
use crate::config::{AdminAction, AdminCall, LimitFlags, PlanAction, RecoverAction, RegionName};
use crate::types::{BucketId, Plan};

/// Fields of plans, in the order in which they are shown.
const PLAN_FIELDS: [&str; 7] = [
    "plan",
    "keys",
    "key_bytes",
    "value_bytes",
    "buckets",
    "bytes",
    "access",
];

/// Carries out a command, and prints its result to `out`. An error means exit code 1.
pub async fn execute(call: &AdminCall, out: Output<'_>) -> Result<(), AdminCallError> {
    let text = match &call.action {
        AdminAction::Status(flags) => return status::show(call, flags, out).await,
        AdminAction::Backup(flags) => return backup_command::run(call, flags, out).await,
        AdminAction::Backups(flags) => return backups_command::run(flags, out).await,
        AdminAction::Metadata(RecoverAction::Recover { confirm, json }) => {
            let flags = (confirm.as_deref(), *json);
            return recover_command::run(call, RecoveryScope::Metadata, flags, out).await;
        }
        AdminAction::Shard(RecoverAction::Recover { confirm, json }) => {
            let flags = (confirm.as_deref(), *json);
            return recover_command::run(call, RecoveryScope::Shards, flags, out).await;
        }
        // The program itself does that: it needs the storage.
        AdminAction::ExportDirectory(_) => Ok(String::new()),
        AdminAction::Verify { json } => return verify::run(call, *json, out).await,
        AdminAction::Decommission { node, yes, wait } => {
            return decommission::run(call, node, (*yes, *wait), out).await;
        }
        AdminAction::Health { ready: false } => check_alive(call).await,
        AdminAction::Health { ready: true } => check_ready(call).await,
        AdminAction::Plan(PlanAction::List { json }) => list_plans(call, *json).await,
        AdminAction::Plan(PlanAction::Set { plan, limits }) => {
            set_limits(call, *plan, limits).await
        }
        AdminAction::BucketPlan { bucket, plan } => set_bucket_plan(call, bucket, *plan).await,
        AdminAction::Recommission { node } => {
            change_node(call, node, NodeChange::Recommission).await
        }
        AdminAction::Replace { node } => change_node(call, node, NodeChange::Replace).await,
        AdminAction::RemoveRegion { region } => remove_region(call, region).await,
    };
    print_result(out, &text?)
}

/// Returns an error if no node answers.
async fn check_alive(call: &AdminCall) -> Result<String, AdminCallError> {
    let health = fetch(call, "/healthz").await?;
    check_program(call, "health", &health)?;
    Ok("ok\n".to_owned())
}

/// Returns an error with the reasons if the node isn't ready.
async fn check_ready(call: &AdminCall) -> Result<String, AdminCallError> {
    let (status, body) = get(&call.target, "/readyz", None).await?;
    check_program(call, "health", &body)?;
    if status == StatusCode::OK {
        return Ok("ready\n".to_owned());
    }
    let Some(names) = body["waiting_for"].as_array() else {
        return Err(refusal(call, status, &body));
    };
    let names = names.iter().filter_map(Value::as_str);
    let lines = names.map(|name| format_unready_component(name, &body["reasons"][name]));
    Err(AdminCallError::NotReady {
        target: call.target.clone(),
        reasons: lines.collect::<Vec<_>>().join("\n"),
    })
}

/// Formats a component that isn't ready, with its reason, as a line.
fn format_unready_component(name: &str, reason: &Value) -> String {
    // A node of another version may give none.
    let reason = reason.as_str().unwrap_or("the node gives no reason");
    format!("  {name}: {reason}")
}

async fn list_plans(call: &AdminCall, json: bool) -> Result<String, AdminCallError> {
    let plans = fetch(call, "/plans").await?;
    Ok(if json {
        format!("{plans:#}\n")
    } else {
        let plans = plans["plans"].as_array().into_iter().flatten();
        render(&plans.map(name_unlimited).collect(), &PLAN_FIELDS)
    })
}

async fn set_limits(
    call: &AdminCall,
    plan: Plan,
    limits: &LimitFlags,
) -> Result<String, AdminCallError> {
    let body = LimitsBody {
        keys: limits.keys,
        key_bytes: limits.key_bytes,
        value_bytes: limits.value_bytes,
        buckets: limits.buckets,
        bytes: limits.bytes,
    };
    let path = format!("/plans/{}", plan.name());
    let terms = submit_change(call, Method::PATCH, &path, &json!(body)).await?;
    Ok(render(&name_unlimited(&terms), &PLAN_FIELDS))
}

/// Returns a plan with a word in place of 0 where that stands for no limit.
fn name_unlimited(terms: &Value) -> Value {
    let mut terms = terms.clone();
    for limit in ["buckets", "bytes"] {
        if terms[limit] == 0 {
            terms[limit] = json!("any");
        }
    }
    terms
}

async fn set_bucket_plan(
    call: &AdminCall,
    bucket: &BucketId,
    plan: Plan,
) -> Result<String, AdminCallError> {
    let body = PlanBody {
        plan: plan.name().to_owned(),
    };
    let path = format!("/buckets/{}/plan", bucket.as_str());
    let response = submit_change(call, Method::PUT, &path, &json!(body)).await?;
    Ok(render(&response, &[]))
}

async fn change_node(
    call: &AdminCall,
    node: &str,
    change: NodeChange,
) -> Result<String, AdminCallError> {
    let body = json!(ChangeBody::default());
    let response = submit_change(call, Method::POST, &change_path(node, change), &body).await?;
    let name = response["name"].as_str().unwrap_or(node);
    // A node of a version before this field has changed it.
    let is_changed = response["changed"].as_bool().unwrap_or(true);
    Ok(match change {
        NodeChange::Decommission | NodeChange::Recommission if is_changed => {
            format!("node {name}: it takes shards again\n")
        }
        NodeChange::Decommission | NodeChange::Recommission => {
            format!("node {name}: it wasn't being decommissioned, and nothing was changed\n")
        }
        NodeChange::Replace if is_changed => format!(
            "node {name}: it was removed, and other nodes replace it; `cloudkv-node admin status` \
             shows the progress\n"
        ),
        NodeChange::Replace => {
            let successor = response["successor"].as_str();
            format!(
                "node {name}: it was removed before{}\n",
                describe_successor(successor)
            )
        }
    })
}

async fn remove_region(call: &AdminCall, region: &RegionName) -> Result<String, AdminCallError> {
    let path = format!("/regions/{region}");
    submit_change(call, Method::DELETE, &path, &json!({})).await?;
    Ok(format!(
        "region {region}: the other regions refuse its changes from now on, exchange those that \
         they have, and then go on without it; `cloudkv-node admin status` shows the progress. Its \
         nodes can only join again with empty data directories\n"
    ))
}
