//! Restores the metadata of a backup: accounts, buckets and plans.
//!
//! Invariant: only a cluster that no node serves yet is restored, and nothing in it is replaced but
//! the terms of plans. A command applies as a whole or not at all.

use std::collections::BTreeSet;
use std::io;

use cloudkv_proto::v1 as pb;

use super::buckets::parse_account_id;
use super::catalog::Bucket;
use super::command_refusal::{CommandRefusal, CommandResult};
use super::feature_level::RESTORE_LEVEL;
use super::load::bucket_from_row;
use super::plans::{PlanTerms, plan_from_pb};
use super::state::MetaState;
use crate::store::RowBatch;
use crate::types::{AccountId, Plan};

/// Rows of a command.
struct RestoredRows {
    accounts: Vec<(AccountId, pb::Account)>,
    buckets: Vec<Bucket>,
}

impl MetaState {
    pub(super) fn restore(
        &mut self,
        restore: &pb::RestoreMetadata,
        batch: &mut RowBatch,
    ) -> io::Result<CommandResult> {
        let restored = match self.restored_rows(restore) {
            Ok(restored) => restored,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for (id, row) in restored.accounts {
            self.put_account(id, row, batch);
        }
        for bucket in restored.buckets {
            self.put_bucket(bucket, batch);
        }
        for limits in &restore.plans {
            self.put_plan(limits, batch)?;
        }
        Ok(Ok(()))
    }

    fn restored_rows(&self, restore: &pb::RestoreMetadata) -> Result<RestoredRows, CommandRefusal> {
        if self.header.cluster_id.is_empty() || self.header.level < RESTORE_LEVEL {
            return Err(CommandRefusal::Malformed);
        }
        if !self.catalog.topology().nodes().is_empty() {
            return Err(CommandRefusal::AlreadyBootstrapped);
        }
        let plans = restore.plans.iter().map(|limits| limits.plan());
        if !are_distinct(plans.clone()) || plans.map(plan_from_pb).any(|plan| plan.is_none()) {
            return Err(CommandRefusal::Malformed);
        }
        let accounts = self.restored_accounts(&restore.accounts)?;
        let buckets = self.restored_buckets(restore)?;
        let known: BTreeSet<_> = accounts.iter().map(|(id, _)| *id).collect();
        let has_owner = |bucket: &Bucket| {
            known.contains(&bucket.owner) || self.catalog.has_account(&bucket.owner)
        };
        if !buckets.iter().all(has_owner) {
            return Err(CommandRefusal::UnknownAccount);
        }
        Ok(RestoredRows { accounts, buckets })
    }

    fn restored_accounts(
        &self,
        accounts: &[pb::RestoredAccount],
    ) -> Result<Vec<(AccountId, pb::Account)>, CommandRefusal> {
        let row = |restored: &pb::RestoredAccount| -> Result<_, CommandRefusal> {
            let row = restored.account.ok_or(CommandRefusal::Malformed)?;
            Ok((parse_account_id(&restored.id)?, row))
        };
        let rows = accounts.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let is_new = |(id, _): &(AccountId, _)| !self.catalog.has_account(id);
        if rows.iter().all(is_new) && are_distinct(rows.iter().map(|(id, _)| *id)) {
            Ok(rows)
        } else {
            Err(CommandRefusal::NameTaken)
        }
    }

    fn restored_buckets(
        &self,
        restore: &pb::RestoreMetadata,
    ) -> Result<Vec<Bucket>, CommandRefusal> {
        let bucket = |restored: &pb::RestoredBucket| -> Result<_, CommandRefusal> {
            let row = restored.bucket.clone().ok_or(CommandRefusal::Malformed)?;
            let terms_of = |plan| self.restored_terms(restore, plan);
            let bucket = bucket_from_row(&restored.id, row, terms_of).ok();
            let bucket = bucket.filter(|bucket| !bucket.is_dropping);
            bucket.ok_or(CommandRefusal::Malformed)
        };
        let buckets = restore.buckets.iter().map(bucket);
        let buckets = buckets.collect::<Result<Vec<_>, _>>()?;
        let is_new = |bucket: &Bucket| self.catalog.any_bucket(&bucket.id).is_none();
        if buckets.iter().all(is_new) && are_distinct(buckets.iter().map(|bucket| bucket.id)) {
            Ok(buckets)
        } else {
            Err(CommandRefusal::NameTaken)
        }
    }

    /// Returns the terms of a plan after the command.
    fn restored_terms(&self, restore: &pb::RestoreMetadata, plan: Plan) -> Option<PlanTerms> {
        let mut restored = restore.plans.iter();
        let restored = restored.find(|limits| plan_from_pb(limits.plan()) == Some(plan));
        restored
            .map(PlanTerms::from_pb)
            .or_else(|| self.catalog.plan(plan))
    }
}

/// Returns whether no item occurs twice. A row that a command puts twice would count twice in the
/// digest.
fn are_distinct<T: Ord>(mut items: impl Iterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    items.all(|item| seen.insert(item))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cloudkv_proto::v1::meta_command::Kind as Command;

    use super::*;
    use crate::meta::default_plans;
    use crate::meta::test_fixture::{MetadataFixture, bootstrap_without_node, registration};
    use crate::types::BucketId;

    const BUCKET: &str = "aABCDEFGHIJKLM";
    const OWNER: [u8; 32] = [7; 32];

    /// Creates a cluster of level 2 that no node serves.
    fn new_cluster(is_reopened: bool) -> MetadataFixture {
        let mut fixture = MetadataFixture::new(is_reopened);
        let bootstrap = pb::BootstrapCluster {
            level: 2,
            ..bootstrap_without_node()
        };
        fixture.apply(Command::Bootstrap(bootstrap)).unwrap();
        fixture
    }

    fn account(id: &[u8]) -> pb::RestoredAccount {
        let row = pb::Account {
            created_at: 5,
            empty_since: 0,
            buckets: 1,
        };
        pb::RestoredAccount {
            id: Bytes::copy_from_slice(id),
            account: Some(row),
        }
    }

    fn bucket(id: &str, owner: &[u8]) -> pb::RestoredBucket {
        let row = pb::Bucket {
            account: Bytes::copy_from_slice(owner),
            access: pb::Access::Protected.into(),
            plan: pb::Plan::Business.into(),
            comment: Some("comment".to_owned()),
            created_at: 6,
            default_ttl: 1_000_000_000,
            ..Default::default()
        };
        pb::RestoredBucket {
            id: Bytes::copy_from_slice(id.as_bytes()),
            bucket: Some(row),
        }
    }

    /// Builds a command that restores a bucket, its account, and plans with other limits.
    fn restored() -> pb::RestoreMetadata {
        let plans = default_plans().into_iter();
        pb::RestoreMetadata {
            accounts: vec![account(&OWNER)],
            buckets: vec![bucket(BUCKET, &OWNER)],
            plans: plans
                .map(|limits| pb::PlanLimits { keys: 77, ..limits })
                .collect(),
        }
    }

    #[test]
    fn accounts_buckets_and_plans_are_as_they_were() {
        let mut digests = BTreeSet::new();
        for is_reopened in [false, true] {
            let mut fixture = new_cluster(is_reopened);
            fixture.apply(Command::Restore(restored())).unwrap();
            let catalog = fixture.state.catalog();
            let id = BucketId::parse(BUCKET.as_bytes()).unwrap();
            let read = catalog.bucket(&id).unwrap();
            assert_eq!(Some(read.to_pb()), bucket(BUCKET, &OWNER).bucket);
            assert_eq!(read.limits.keys, 77);
            assert_eq!(catalog.plan(Plan::Free).unwrap().limits.keys, 77);
            assert_eq!(catalog.account(&AccountId(OWNER)), account(&OWNER).account);
            let buckets = catalog.buckets_of(&AccountId(OWNER));
            assert_eq!(buckets.len(), 1);
            digests.insert(fixture.digest());
        }
        assert_eq!(digests.len(), 1);
    }

    #[test]
    fn a_backup_is_restored_by_several_commands() {
        let pb::RestoreMetadata {
            accounts,
            buckets,
            plans,
        } = restored();
        let mut whole = new_cluster(false);
        whole.apply(Command::Restore(restored())).unwrap();
        let mut fixture = new_cluster(false);
        for part in [
            pb::RestoreMetadata {
                plans,
                ..Default::default()
            },
            pb::RestoreMetadata {
                accounts,
                ..Default::default()
            },
            pb::RestoreMetadata {
                buckets,
                ..Default::default()
            },
        ] {
            fixture.apply(Command::Restore(part)).unwrap();
        }
        assert_eq!(fixture.digest(), whole.digest());
    }

    #[test]
    fn commands_that_do_not_fit_change_nothing() {
        let mut fixture = new_cluster(false);
        let mut refuse = |change: &dyn Fn(&mut pb::RestoreMetadata), refusal| {
            let mut restore = restored();
            change(&mut restore);
            let before = fixture.digest();
            assert_eq!(fixture.apply(Command::Restore(restore)), Err(refusal));
            assert_eq!(fixture.digest(), before);
        };
        let malformed = CommandRefusal::Malformed;
        refuse(
            &|it| it.accounts[0].id = Bytes::from_static(b"x"),
            malformed,
        );
        refuse(&|it| it.accounts[0].account = None, malformed);
        refuse(&|it| it.buckets[0].id = Bytes::from_static(b"x"), malformed);
        refuse(&|it| it.buckets[0].bucket = None, malformed);
        let change_bucket = |change: fn(&mut pb::Bucket)| {
            move |it: &mut pb::RestoreMetadata| it.buckets[0].bucket.iter_mut().for_each(change)
        };
        refuse(&change_bucket(|bucket| bucket.dropping = true), malformed);
        refuse(&change_bucket(|bucket| bucket.plan = 9), malformed);
        refuse(&change_bucket(|bucket| bucket.access = 0), malformed);
        refuse(&|it| it.plans[0].plan = 9, malformed);
        refuse(&|it| it.plans.push(it.plans[0].clone()), malformed);
        refuse(&|it| it.accounts.clear(), CommandRefusal::UnknownAccount);
        let taken = CommandRefusal::NameTaken;
        refuse(&|it| it.accounts.push(account(&OWNER)), taken);
        refuse(&|it| it.buckets.push(bucket(BUCKET, &OWNER)), taken);
        fixture.apply(Command::Restore(restored())).unwrap();
        assert_eq!(fixture.apply(Command::Restore(restored())), Err(taken));
    }

    #[test]
    fn a_cluster_that_lives_or_is_too_old_or_not_bootstrapped_is_left_as_it_is() {
        let restore = |fixture: &mut MetadataFixture| fixture.apply(Command::Restore(restored()));
        let mut fixture = MetadataFixture::new(false);
        assert_eq!(restore(&mut fixture), Err(CommandRefusal::Malformed));
        let old = Command::Bootstrap(bootstrap_without_node());
        fixture.apply(old).unwrap();
        assert_eq!(restore(&mut fixture), Err(CommandRefusal::Malformed));
        let mut fixture = new_cluster(false);
        let node = Command::RegisterNode(registration(1));
        fixture.apply(node).unwrap();
        let refusal = CommandRefusal::AlreadyBootstrapped;
        assert_eq!(restore(&mut fixture), Err(refusal));
    }
}
