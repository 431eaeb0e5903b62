//! The operator's commands: `cloudkv-node admin status` and the like.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{self, CallError, get};
use super::nodes::NodeChange;
use super::operations::{LimitsBody, PlanBody};
use super::render::render;
use crate::config::{Action, LimitFlags, OperatorCall, PlanAction, Region};
use crate::raft::NodeId;
use crate::types::{BucketId, Plan};

/// Carries out a command and returns what to print. An error means exit code 1.
pub async fn execute(call: &OperatorCall) -> Result<String, CallError> {
    match &call.action {
        Action::Status { json } => status(call, *json).await,
        Action::Health { ready: false } => ask(call, "/healthz").await.map(|_| "ok\n".to_owned()),
        Action::Health { ready: true } => ready(call).await,
        Action::Plan(PlanAction::List { json }) => list_plans(call, *json).await,
        Action::Plan(PlanAction::Set { plan, limits }) => set_limits(call, *plan, limits).await,
        Action::BucketPlan { bucket, plan } => set_bucket_plan(call, bucket, *plan).await,
        Action::Decommission { node } => change(call, *node, NodeChange::Decommission).await,
        Action::Recommission { node } => change(call, *node, NodeChange::Recommission).await,
        Action::Replace { node } => change(call, *node, NodeChange::Replace).await,
        Action::RemoveRegion { region } => remove_region(call, region).await,
        Action::Verify { json } => verify(call, *json).await,
    }
}

async fn status(call: &OperatorCall, json: bool) -> Result<String, CallError> {
    let status = ask(call, "/status").await?;
    Ok(if json {
        format!("{status:#}\n")
    } else {
        render(&status)
    })
}

async fn ready(call: &OperatorCall) -> Result<String, CallError> {
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
    Err(CallError::NotReady {
        target: call.target.clone(),
        waiting_for,
    })
}

async fn list_plans(call: &OperatorCall, json: bool) -> Result<String, CallError> {
    let plans = ask(call, "/plans").await?;
    Ok(if json {
        format!("{plans:#}\n")
    } else {
        render(&plans["plans"])
    })
}

async fn set_limits(
    call: &OperatorCall,
    plan: Plan,
    limits: &LimitFlags,
) -> Result<String, CallError> {
    let body = LimitsBody {
        keys: limits.keys,
        key_bytes: limits.key_bytes,
        value_bytes: limits.value_bytes,
        buckets: limits.buckets,
        bytes: limits.bytes,
    };
    let path = format!("/plans/{}", plan.name());
    let terms = tell(call, Method::PATCH, &path, &json!(body)).await?;
    Ok(render(&terms))
}

async fn set_bucket_plan(
    call: &OperatorCall,
    bucket: &BucketId,
    plan: Plan,
) -> Result<String, CallError> {
    let body = PlanBody {
        plan: plan.name().to_owned(),
    };
    let path = format!("/buckets/{}/plan", bucket.as_str());
    let answer = tell(call, Method::PUT, &path, &json!(body)).await?;
    Ok(render(&answer))
}

async fn change(
    call: &OperatorCall,
    node: NodeId,
    change: NodeChange,
) -> Result<String, CallError> {
    let path = format!("/nodes/{node}/{}", change.name());
    tell(call, Method::POST, &path, &json!({})).await?;
    let next = match change {
        NodeChange::Decommission => {
            "its shards move away; when no group in `admin status` names it any more, stop it, and \
             then replace it"
        }
        NodeChange::Recommission => "it takes shards again",
        NodeChange::Replace => "others take its place; `admin status` shows the progress",
    };
    Ok(format!("node {node}: {next}\n"))
}

async fn remove_region(call: &OperatorCall, region: &Region) -> Result<String, CallError> {
    let path = format!("/regions/{region}");
    tell(call, Method::DELETE, &path, &json!({})).await?;
    Ok(format!(
        "region {region}: the others refuse what it sends from now on, level what they have of it, \
         and then go on without it; `admin status` shows the progress. Its nodes can only come back \
         with empty data directories\n"
    ))
}

/// Compares all shards, one after the other; that regions differ is an error.
async fn verify(call: &OperatorCall, json: bool) -> Result<String, CallError> {
    let status = ask(call, "/status").await?;
    let mut shards = Vec::new();
    for shard in 0..status["shards"].as_u64().unwrap_or(0) {
        let path = format!("/shards/{shard}/verify");
        let (target, token) = (&call.target, call.token.as_ref());
        let answer = client::walk(target, Method::POST, &path, token).await?;
        shards.push(good(call, answer)?);
    }
    let is = |verdict: &str| shards.iter().any(|shard| shard["verdict"] == verdict);
    let (differ, unknown) = (is("different"), is("undecided"));
    let shards = Value::Array(shards);
    let text = if json {
        format!("{shards:#}\n")
    } else {
        render(&shards)
    };
    match (differ, unknown) {
        (false, false) => Ok(text),
        (true, _) => Err(CallError::Differ { text }),
        (false, true) => Err(CallError::Undecided { text }),
    }
}

/// The JSON of a good answer to a question.
async fn ask(call: &OperatorCall, path: &str) -> Result<Value, CallError> {
    good(call, get(&call.target, path, call.token.as_ref()).await?)
}

/// The JSON of a good answer to a change.
async fn tell(
    call: &OperatorCall,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<Value, CallError> {
    let token = call.token.as_ref();
    good(
        call,
        client::change(&call.target, method, path, token, body).await?,
    )
}

fn good(call: &OperatorCall, (status, body): (StatusCode, Value)) -> Result<Value, CallError> {
    if status.is_success() {
        return Ok(body);
    }
    let message = body["message"].as_str().unwrap_or("no message").to_owned();
    Err(CallError::Refused {
        target: call.target.clone(),
        status,
        message,
    })
}
