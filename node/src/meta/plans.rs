//! Limits and access modes of each plan.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;

use crate::types::{Access, Plan};

/// Maximum size of a key in any plan, in bytes.
pub(crate) const MAX_KEY_BYTES: u32 = 1024;
/// Maximum size of a value in any plan, in bytes.
pub(crate) const MAX_VALUE_BYTES: u32 = 1 << 20;

/// Limits of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketLimits {
    /// Maximum number of keys.
    pub keys: u64,
    /// Maximum size of a key, in bytes.
    pub key_bytes: usize,
    /// Maximum size of a value, in bytes.
    pub value_bytes: usize,
    /// Maximum size of all keys and values together, in bytes; `None` for no limit.
    pub bytes: Option<u64>,
}

/// Terms of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanTerms {
    /// Limits of each bucket.
    pub limits: Arc<BucketLimits>,
    /// Maximum number of buckets per account; `None` for no limit.
    pub buckets: Option<u64>,
    /// Access modes that the plan includes.
    pub access: Vec<Access>,
}

impl PlanTerms {
    pub(super) fn from_pb(limits: &pb::PlanLimits) -> Self {
        let bytes = |bytes: u32, max: u32| bytes.min(max) as usize;
        Self {
            limits: Arc::new(BucketLimits {
                keys: limits.keys,
                key_bytes: bytes(limits.key_bytes, MAX_KEY_BYTES),
                value_bytes: bytes(limits.value_bytes, MAX_VALUE_BYTES),
                bytes: (limits.bytes != 0).then_some(limits.bytes),
            }),
            buckets: (limits.buckets != 0).then_some(limits.buckets),
            access: limits.access().filter_map(access_from_pb).collect(),
        }
    }

    /// Returns the stored row of a plan with these terms.
    pub(crate) fn to_pb(&self, plan: Plan) -> pb::PlanLimits {
        let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        pb::PlanLimits {
            plan: plan_to_pb(plan).into(),
            buckets: self.buckets.unwrap_or(0),
            keys: self.limits.keys,
            key_bytes: bytes(self.limits.key_bytes),
            value_bytes: bytes(self.limits.value_bytes),
            access: self
                .access
                .iter()
                .map(|access| access_to_pb(*access).into())
                .collect(),
            bytes: self.limits.bytes.unwrap_or(0),
        }
    }
}

/// Creates the plans of a new cluster, with the numbers of the public price list.
pub(crate) fn default_plans() -> Vec<pb::PlanLimits> {
    use pb::Access::{Protected, Public, PublicRead};
    let plan = |plan, buckets, keys, value_bytes, access: &[pb::Access]| pb::PlanLimits {
        plan: plan_to_pb(plan).into(),
        buckets,
        keys,
        key_bytes: 64,
        value_bytes,
        access: access.iter().map(|access| (*access).into()).collect(),
        bytes: 0,
    };
    vec![
        plan(Plan::Free, 10, 10_000, 4096, &[Public]),
        plan(Plan::Pro, 0, 100_000_000, 4096, &[Public, PublicRead]),
        plan(
            Plan::Business,
            0,
            100_000_000,
            16_384,
            &[Public, PublicRead, Protected],
        ),
    ]
}

pub(super) fn plan_from_pb(plan: pb::Plan) -> Option<Plan> {
    match plan {
        pb::Plan::Unspecified => None,
        pb::Plan::Free => Some(Plan::Free),
        pb::Plan::Pro => Some(Plan::Pro),
        pb::Plan::Business => Some(Plan::Business),
    }
}

/// Converts a plan for use in commands.
pub(crate) fn plan_to_pb(plan: Plan) -> pb::Plan {
    match plan {
        Plan::Free => pb::Plan::Free,
        Plan::Pro => pb::Plan::Pro,
        Plan::Business => pb::Plan::Business,
    }
}

pub(super) fn access_from_pb(access: pb::Access) -> Option<Access> {
    match access {
        pb::Access::Unspecified => None,
        pb::Access::Public => Some(Access::Public),
        pb::Access::PublicRead => Some(Access::PublicRead),
        pb::Access::Protected => Some(Access::Protected),
    }
}

/// Converts an access mode for use in commands.
pub(crate) fn access_to_pb(access: Access) -> pb::Access {
    match access {
        Access::Public => pb::Access::Public,
        Access::PublicRead => pb::Access::PublicRead,
        Access::Protected => pb::Access::Protected,
    }
}
