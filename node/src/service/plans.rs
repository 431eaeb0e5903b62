//! Changes of plans that only the operator makes: of their limits, and of a bucket's plan.

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::directory::{Directory, from_refusal};
use super::errors::DirectoryError;
use super::metadata::no_leader;
use crate::meta::{MAX_KEY_BYTES, MAX_VALUE_BYTES, PlanTerms, access_to_pb, plan_to_pb};
use crate::types::{BucketId, Plan};

/// Changes of a plan's limits; `None` leaves a limit unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanChanges {
    /// Number of keys of a bucket.
    pub keys: Option<u64>,
    /// Size of a key, in bytes.
    pub key_bytes: Option<u64>,
    /// Size of a value, in bytes.
    pub value_bytes: Option<u64>,
    /// Number of buckets of the plan per account; 0: unlimited.
    pub buckets: Option<u64>,
    /// Size of all keys and values of a bucket, in bytes; 0: unlimited.
    pub bytes: Option<u64>,
}

/// Error of a change of a plan's limits.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No limit was named.
    #[error("name at least one limit: keys, key_bytes, value_bytes, buckets or bytes")]
    NoChange,
    /// A limit is outside of its bounds.
    #[error("{limit} = {value}: expected a whole number {}", bounds(*.max))]
    OutOfBounds {
        /// The limit.
        limit: &'static str,
        /// The requested value.
        value: u64,
        /// The highest allowed value; the lowest is 1.
        max: u64,
    },
    /// The change failed.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

fn bounds(max: u64) -> String {
    match max {
        u64::MAX => "from 1 on".to_owned(),
        max => format!("from 1 to {max}"),
    }
}

impl Directory {
    /// Returns the terms of all plans, the lowest first, as this node has applied them.
    pub fn plans(&self) -> Vec<(Plan, PlanTerms)> {
        let terms = |plan| Some((plan, self.inner.catalog.plan(plan)?));
        Plan::ALL.into_iter().filter_map(terms).collect()
    }

    /// Changes a plan's limits for all of its buckets at once, and returns its terms. Keys and
    /// values of a bucket beyond a lower limit stay.
    pub async fn set_plan_limits(
        &self,
        plan: Plan,
        changes: PlanChanges,
    ) -> Result<PlanTerms, PlanError> {
        // A command carries all limits: two changes at once must not undo each other.
        let _exclusive = self.inner.plan_change_lock.lock().await;
        self.barrier().await?;
        let terms = self.plan_terms(plan)?;
        let limits = apply_changes(plan, &terms, changes)?;
        let set = pb::SetPlanLimits {
            limits: Some(limits),
        };
        let result = self.propose(Command::SetPlanLimits(set)).await?;
        result.map_err(|_| DirectoryError::UnknownOutcome)?;
        Ok(self.plan_terms(plan)?)
    }

    fn plan_terms(&self, plan: Plan) -> Result<PlanTerms, DirectoryError> {
        let terms = self.inner.catalog.plan(plan);
        terms.ok_or_else(|| no_leader().into())
    }

    /// Sets a bucket's plan, whoever owns it, and whether or not users choose plans themselves.
    pub async fn set_bucket_plan(&self, id: BucketId, plan: Plan) -> Result<(), DirectoryError> {
        self.barrier().await?;
        let bucket = self.bucket(&id).ok_or(DirectoryError::UnknownBucket)?;
        if bucket.plan == plan {
            return Ok(());
        }
        self.check_fits(&bucket, plan).await?;
        let modify = pb::ModifyBucket {
            bucket: Bytes::copy_from_slice(id.as_bytes()),
            plan: plan_to_pb(plan).into(),
            ..Default::default()
        };
        self.propose(Command::ModifyBucket(modify))
            .await?
            .map_err(|refusal| from_refusal(refusal, plan, bucket.access))
    }
}

/// Returns a plan's limits with changes applied.
fn apply_changes(
    plan: Plan,
    terms: &PlanTerms,
    changes: PlanChanges,
) -> Result<pb::PlanLimits, PlanError> {
    if changes == PlanChanges::default() {
        return Err(PlanError::NoChange);
    }
    let old = &terms.limits;
    let buckets = changes.buckets.or(terms.buckets).unwrap_or(0);
    let access = terms.access.iter();
    Ok(pb::PlanLimits {
        plan: plan_to_pb(plan).into(),
        buckets,
        keys: check_bounds("keys", changes.keys.unwrap_or(old.keys), u64::MAX)?,
        key_bytes: checked_size("key_bytes", changes.key_bytes, old.key_bytes, MAX_KEY_BYTES)?,
        value_bytes: checked_size(
            "value_bytes",
            changes.value_bytes,
            old.value_bytes,
            MAX_VALUE_BYTES,
        )?,
        access: access.map(|access| access_to_pb(*access).into()).collect(),
        bytes: changes.bytes.or(old.bytes).unwrap_or(0),
    })
}

fn checked_size(
    limit: &'static str,
    new: Option<u64>,
    old: usize,
    max: u32,
) -> Result<u32, PlanError> {
    let value = new.unwrap_or(old as u64);
    let value = check_bounds(limit, value, u64::from(max))?;
    // It is at most `max`.
    Ok(u32::try_from(value).unwrap_or(max))
}

fn check_bounds(limit: &'static str, value: u64, max: u64) -> Result<u64, PlanError> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(PlanError::OutOfBounds { limit, value, max })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::meta::BucketLimits;
    use crate::types::Access;

    fn free() -> PlanTerms {
        PlanTerms {
            limits: Arc::new(BucketLimits {
                keys: 10_000,
                key_bytes: 64,
                value_bytes: 4096,
                bytes: None,
            }),
            buckets: Some(10),
            access: vec![Access::Public],
        }
    }

    fn change(changes: PlanChanges) -> Result<pb::PlanLimits, String> {
        apply_changes(Plan::Free, &free(), changes).map_err(|error| error.to_string())
    }

    #[test]
    fn limits_that_are_not_named_stay() {
        let changes = PlanChanges {
            value_bytes: Some(8192),
            ..Default::default()
        };
        let limits = change(changes).unwrap();
        let expected = pb::PlanLimits {
            plan: pb::Plan::Free.into(),
            buckets: 10,
            keys: 10_000,
            key_bytes: 64,
            value_bytes: 8192,
            access: vec![pb::Access::Public.into()],
            bytes: 0,
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn the_highest_limits_are_accepted_and_zero_buckets_is_unlimited() {
        let limits = change(PlanChanges {
            keys: Some(u64::MAX),
            key_bytes: Some(1024),
            value_bytes: Some(1 << 20),
            buckets: Some(0),
            bytes: Some(u64::MAX),
        });
        let limits = limits.unwrap();
        assert_eq!((limits.keys, limits.buckets), (u64::MAX, 0));
        assert_eq!(limits.bytes, u64::MAX);
        assert_eq!((limits.key_bytes, limits.value_bytes), (1024, 1 << 20));
    }

    #[test]
    fn limits_out_of_bounds_are_refused_with_the_bounds() {
        let error_of = |keys, key_bytes, value_bytes| {
            change(PlanChanges {
                keys,
                key_bytes,
                value_bytes,
                ..Default::default()
            })
            .unwrap_err()
        };
        assert_eq!(
            error_of(Some(0), None, None),
            "keys = 0: expected a whole number from 1 on"
        );
        for bytes in [0, 1025, u64::from(u32::MAX) + 65] {
            let expected = format!("key_bytes = {bytes}: expected a whole number from 1 to 1024");
            assert_eq!(error_of(None, Some(bytes), None), expected);
        }
        for bytes in [0, (1 << 20) + 1] {
            let expected =
                format!("value_bytes = {bytes}: expected a whole number from 1 to 1048576");
            assert_eq!(error_of(None, None, Some(bytes)), expected);
        }
        assert!(error_of(None, None, None).contains("at least one"));
    }
}
