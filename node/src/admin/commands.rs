//! The commands of `cloudkv-node admin`.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{self, AdminCallError, get};
use super::decommission::{self, change_path};
use super::node_change::{ChangeBody, NodeChange};
use super::output::{Output, print};
use super::plans::{LimitsBody, PlanBody};
use super::render::render;
use super::requests::{
    check_program, fetch, fetch_status_with_retries, refusal, submit_change, success_body,
};
use super::status;
use crate::config::{AdminAction, AdminCall, LimitFlags, PlanAction, RegionName};
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
/// Fields of compared shards, in the order in which they are shown.
const COMPARISON_FIELDS: [&str; 5] = ["shard", "verdict", "records", "ranges", "regions"];

/// Carries out a command, and prints its result to `out`. An error means exit code 1.
pub async fn execute(call: &AdminCall, out: Output<'_>) -> Result<(), AdminCallError> {
    let text = match &call.action {
        AdminAction::Status(flags) => return status::show(call, flags, out).await,
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
        AdminAction::Verify { json } => verify(call, *json, out).await,
    };
    print(out, &text?)
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
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    let waiting_for = names.join(", ");
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
        NodeChange::Replace => format!("node {name}: it was removed before\n"),
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

/// Names of the regions to compare of which no node is reached.
fn unreached_regions(status: &Value) -> Vec<&str> {
    let list = |field: &str| status[field].as_array().into_iter().flatten();
    let is_reached = |name: &str| {
        let mut nodes = list("nodes");
        nodes.any(|node| node["region"] == name && node["alive"] == true)
    };
    list("regions")
        .filter(|region| region["joining"] != true && region["leaving"] != true)
        .filter_map(|region| region["name"].as_str())
        .filter(|name| !is_reached(name))
        .collect()
}

/// Compares all shards, one after the other. Returns an error if regions differ.
async fn verify(call: &AdminCall, json: bool, out: Output<'_>) -> Result<String, AdminCallError> {
    let status = fetch_status_with_retries(call).await?;
    let unreached = unreached_regions(&status).join(", ");
    if !unreached.is_empty() && !json {
        let text = format!("waiting up to 30 s for {unreached}: no node there is reached\n");
        print(out, &text)?;
    }
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
        render(&shards, &COMPARISON_FIELDS)
    };
    match (is_different, is_undecided) {
        (false, false) => Ok(text),
        (true, _) => Err(AdminCallError::RegionsDiffer { text }),
        (false, true) => Err(AdminCallError::Undecided { text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verify_waits_for_regions_that_are_to_be_compared_and_are_not_reached() {
        let region = |name: &str, joining: bool| json!({ "name": name, "joining": joining });
        let node = |region: &str, alive: bool| json!({ "region": region, "alive": alive });
        let status = json!({
            "regions": [region("eu", false), region("us", false), region("ap", true)],
            "nodes": [node("eu", false), node("eu", true), node("us", false), node("ap", false)],
        });
        assert_eq!(unreached_regions(&status), ["us"]);
    }
}
