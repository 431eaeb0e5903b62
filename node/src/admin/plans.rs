//! Routes that list plans, change their limits, and assign them to buckets.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::AdminContext;
use super::errors::OperationError;
use crate::service::{BucketId, DirectoryError, Plan, PlanChanges, PlanTerms};

/// Body of `PATCH /plans/{plan}`: absent limits stay as they are.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_bytes: Option<u64>,
    /// 0: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u64>,
    /// 0: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Body of `PUT /buckets/{id}/plan`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanBody {
    pub plan: String,
}

pub(super) async fn list_plans(State(node): State<AdminContext>) -> Json<Value> {
    let plans = node.operations.plans();
    let plans: Vec<Value> = plans
        .iter()
        .map(|(plan, terms)| plan_json(*plan, terms))
        .collect();
    Json(json!({ "plans": plans }))
}

pub(super) async fn set_plan_limits(
    State(node): State<AdminContext>,
    plan: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, OperationError> {
    let plan = plan.ok().and_then(|name| Plan::parse(&name));
    let plan = plan.ok_or(OperationError::UnknownPlan)?;
    let body: LimitsBody = parse_body(
        body,
        "any of keys, key_bytes, value_bytes, buckets and bytes",
    )?;
    let changes = PlanChanges {
        keys: body.keys,
        key_bytes: body.key_bytes,
        value_bytes: body.value_bytes,
        buckets: body.buckets,
        bytes: body.bytes,
    };
    let terms = node.operations.set_plan_limits(plan, changes).await?;
    let limits = &terms.limits;
    tracing::info!(
        plan = plan.name(),
        keys = limits.keys,
        key_bytes = limits.key_bytes,
        value_bytes = limits.value_bytes,
        buckets = terms.buckets,
        bytes = limits.bytes,
        "operator set a plan's limits"
    );
    Ok(Json(plan_json(plan, &terms)))
}

pub(super) async fn set_bucket_plan(
    State(node): State<AdminContext>,
    bucket: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, OperationError> {
    let bucket = bucket.ok().and_then(|id| BucketId::parse(id.as_bytes()));
    let bucket = bucket.ok_or(DirectoryError::UnknownBucket)?;
    let body: PlanBody = parse_body(body, "plan")?;
    let plan = Plan::parse(&body.plan).ok_or(OperationError::InvalidPlan)?;
    node.operations.set_bucket_plan(bucket, plan).await?;
    tracing::info!(?bucket, plan = plan.name(), "operator set a bucket's plan");
    Ok(Json(json!({ "plan": plan.name() })))
}

fn parse_body<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    fields: &'static str,
) -> Result<T, OperationError> {
    serde_json::from_slice(&body?).map_err(|source| OperationError::InvalidBody { fields, source })
}

fn plan_json(plan: Plan, terms: &PlanTerms) -> Value {
    let access: Vec<&str> = terms.access.iter().map(|access| access.name()).collect();
    json!({
        "plan": plan.name(),
        "keys": terms.limits.keys,
        "key_bytes": terms.limits.key_bytes,
        "value_bytes": terms.limits.value_bytes,
        "buckets": terms.buckets.unwrap_or(0),
        "bytes": terms.limits.bytes.unwrap_or(0),
        "access": access,
    })
}
