//! The commands of `cloudkv-node admin`.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{self, AdminCallError, get};
use super::decommission::{self, change_path};
use super::node_change::{ChangeBody, NodeChange};
use super::output::{Output, print};
use super::plans::{LimitsBody, PlanBody};
use super::render::render;
use super::requests::{fetch, fetch_status_with_retries, submit_change, success_body};
use super::status;
use crate::config::{AdminAction, AdminCall, LimitFlags, PlanAction, RegionName};
use crate::types::{BucketId, Plan};

/// Carries out a command, and prints its result to `out`. An error means exit code 1.
pub async fn execute(call: &AdminCall, out: Output<'_>) -> Result<(), AdminCallError> {
    let text = match &call.action {
        AdminAction::Status(flags) => return status::show(call, flags, out).await,
        AdminAction::Decommission { node, yes, wait } => {
            return decommission::run(call, node, (*yes, *wait), out).await;
        }
        AdminAction::Health { ready: false } => {
            fetch(call, "/healthz").await.map(|_| "ok\n".to_owned())
        }
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
        AdminAction::Verify { json } => verify(call, *json).await,
    };
    print(out, &text?)
}

/// Returns an error with the reasons if the node isn't ready.
async fn check_ready(call: &AdminCall) -> Result<String, AdminCallError> {
    let (status, body) = get(&call.target, "/readyz", None).await?;
    if status == StatusCode::OK {
        return Ok("ready\n".to_owned());
    }
    let names = body["waiting_for"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let waiting_for = names.collect::<Vec<_>>().join(", ");
    Err(AdminCallError::NotReady {
        target: call.target.clone(),
        waiting_for,
    })
}

async fn list_plans(call: &AdminCall, json: bool) -> Result<String, AdminCallError> {
    let plans = fetch(call, "/plans").await?;
    Ok(if json {
        format!("{plans:#}\n")
    } else {
        render(&plans["plans"])
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
    Ok(render(&terms))
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
    Ok(render(&response))
}

async fn change_node(
    call: &AdminCall,
    node: &str,
    change: NodeChange,
) -> Result<String, AdminCallError> {
    let body = json!(ChangeBody::default());
    let response = submit_change(call, Method::POST, &change_path(node, change), &body).await?;
    let name = response["name"].as_str().unwrap_or(node);
    Ok(match change {
        NodeChange::Decommission | NodeChange::Recommission => {
            format!("node {name}: it takes shards again\n")
        }
        NodeChange::Replace => format!(
            "node {name}: it was removed, and other nodes replace it; `admin status` shows the \
             progress\n"
        ),
    })
}

async fn remove_region(call: &AdminCall, region: &RegionName) -> Result<String, AdminCallError> {
    let path = format!("/regions/{region}");
    submit_change(call, Method::DELETE, &path, &json!({})).await?;
    Ok(format!(
        "region {region}: the other regions refuse its changes from now on, exchange those that \
         they have, and then go on without it; `admin status` shows the progress. Its nodes can \
         only join again with empty data directories\n"
    ))
}

/// Compares all shards, one after the other. Returns an error if regions differ.
async fn verify(call: &AdminCall, json: bool) -> Result<String, AdminCallError> {
    let status = fetch_status_with_retries(call).await?;
    let mut shards = Vec::new();
    for shard in 0..status["shards"].as_u64().unwrap_or(0) {
        let path = format!("/shards/{shard}/verify");
        let (target, token) = (&call.target, call.token.as_ref());
        let response = client::send_scan(target, Method::POST, &path, token).await?;
        shards.push(success_body(call, response)?);
    }
    let has = |verdict: &str| shards.iter().any(|shard| shard["verdict"] == verdict);
    let (is_different, is_undecided) = (has("different"), has("undecided"));
    let shards = Value::Array(shards);
    let text = if json {
        format!("{shards:#}\n")
    } else {
        render(&shards)
    };
    match (is_different, is_undecided) {
        (false, false) => Ok(text),
        (true, _) => Err(AdminCallError::RegionsDiffer { text }),
        (false, true) => Err(AdminCallError::Undecided { text }),
    }
}
