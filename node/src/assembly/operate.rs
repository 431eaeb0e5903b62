//! What the operator's port does.

use futures_util::future::BoxFuture;

use crate::admin::Operations;
use crate::service::{
    BucketId, Directory, DirectoryError, Plan, PlanChanges, PlanError, PlanTerms,
};

impl Operations for Directory {
    fn plans(&self) -> Vec<(Plan, PlanTerms)> {
        self.plans()
    }

    fn set_plan_limits(
        &self,
        plan: Plan,
        changes: PlanChanges,
    ) -> BoxFuture<'_, Result<PlanTerms, PlanError>> {
        Box::pin(self.set_plan_limits(plan, changes))
    }

    fn set_bucket_plan(
        &self,
        bucket: BucketId,
        plan: Plan,
    ) -> BoxFuture<'_, Result<(), DirectoryError>> {
        Box::pin(self.set_bucket_plan(bucket, plan))
    }
}
