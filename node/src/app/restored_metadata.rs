//! The metadata of a restored cluster: the accounts, buckets and plans of a backup.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use crate::backup::{BackupError, BackupTarget, Manifest, PartReader};
use crate::cluster::Identity;
use crate::meta::{self, Meta, MetaState};
use crate::raft::OfflineGroup;
use crate::store::Engine;
use crate::store::keys::GroupId;
use crate::types::{BucketId, Nanos};

/// Maximum number of accounts, or of buckets, in a command.
const MAX_COMMAND_ROWS: usize = 1000;

/// Metadata of a backup, as the new cluster gets it. A node has all of it in memory as well.
pub(super) struct RestoredMetadata {
    accounts: Vec<pb::RestoredAccount>,
    buckets: Vec<pb::RestoredBucket>,
    plans: Vec<pb::PlanLimits>,
    /// Number of buckets that are left out, since the backup lacks their accounts.
    orphans: usize,
}

impl RestoredMetadata {
    /// Reads all parts. Accounts without a bucket have none since `now` unless they say since when.
    pub(super) async fn read(
        target: &BackupTarget,
        manifest: &Manifest,
        now: Nanos,
    ) -> Result<Self, BackupError> {
        let (mut accounts, mut buckets, mut plans) = (Vec::new(), Vec::new(), Vec::new());
        let entries = manifest.metadata.clone();
        let mut parts = PartReader::<pb::BackupMetadata>::new(target, &manifest.start.id, entries);
        while let Some(part) = parts.next().await? {
            accounts.extend(part.accounts);
            buckets.extend(part.buckets);
            plans.extend(part.plans);
        }
        Ok(Self::prepare(accounts, buckets, plans, now))
    }

    /// Lets the accounts count the buckets that are restored: those that aren't being deleted, and
    /// whose account is there. An account and its first bucket may have been created while the
    /// metadata was read.
    fn prepare(
        mut accounts: Vec<pb::RestoredAccount>,
        mut buckets: Vec<pb::RestoredBucket>,
        plans: Vec<pb::PlanLimits>,
        now: Nanos,
    ) -> Self {
        let ids = accounts.iter().map(|account| account.id.clone());
        let mut counts: HashMap<Bytes, u32> = ids.map(|id| (id, 0)).collect();
        let mut orphans = 0;
        buckets.retain_mut(|restored| {
            let bucket = restored.bucket.get_or_insert_default();
            if bucket.dropping {
                return false;
            }
            bucket.dropped_in.clear();
            match counts.get_mut(&bucket.account) {
                Some(count) => *count += 1,
                None => orphans += 1,
            }
            counts.contains_key(&bucket.account)
        });
        for account in &mut accounts {
            let row = account.account.get_or_insert_default();
            row.buckets = counts.get(&account.id).copied().unwrap_or(0);
            row.empty_since = match (row.buckets, row.empty_since) {
                (0, 0) => now,
                (0, since) => since,
                _ => 0,
            };
        }
        Self {
            accounts,
            buckets,
            plans,
            orphans,
        }
    }

    /// Number of accounts.
    pub(super) fn account_count(&self) -> usize {
        self.accounts.len()
    }

    /// Names of all buckets.
    pub(super) fn bucket_ids(&self) -> HashSet<BucketId> {
        let buckets = self.buckets.iter();
        buckets
            .filter_map(|bucket| BucketId::parse(&bucket.id))
            .collect()
    }

    /// Describes what is left out, for the terminal.
    pub(super) fn describe_omissions(&self) -> Option<String> {
        let count = self.orphans;
        (count > 0).then(|| {
            format!(
                "{count} buckets were left out: they were created, with their accounts, when the \
                 backup ended"
            )
        })
    }

    /// Writes the metadata of a new cluster, with this node as its only voter. Durable when it
    /// returns. The node registers itself, with its addresses, when it is started.
    pub(super) async fn write(
        self,
        engine: &Arc<Engine>,
        identity: &Identity,
        time: Nanos,
    ) -> io::Result<()> {
        let db = engine.state.clone();
        let open = |rows| MetaState::open(db, rows);
        let mut group = OfflineGroup::<Meta>::open(engine, GroupId::META, open)?;
        let bootstrap = Command::Bootstrap(bootstrap(identity));
        let restores = self.into_commands().into_iter().map(Command::Restore);
        for kind in std::iter::once(bootstrap).chain(restores) {
            let kind = Some(kind);
            let result = group.apply(pb::MetaCommand { time, kind }).await?;
            result.map_err(io::Error::other)?;
        }
        group.become_sole_voter(identity.node_id, "").await
    }

    /// Returns the commands that restore it: plans and accounts come before what refers to them.
    fn into_commands(self) -> Vec<pb::RestoreMetadata> {
        let mut commands = vec![pb::RestoreMetadata {
            plans: self.plans,
            ..Default::default()
        }];
        for accounts in self.accounts.chunks(MAX_COMMAND_ROWS) {
            commands.push(pb::RestoreMetadata {
                accounts: accounts.to_vec(),
                ..Default::default()
            });
        }
        for buckets in self.buckets.chunks(MAX_COMMAND_ROWS) {
            commands.push(pb::RestoreMetadata {
                buckets: buckets.to_vec(),
                ..Default::default()
            });
        }
        commands
    }
}

/// Command that bootstraps the cluster. It names no node: the addresses aren't known yet.
fn bootstrap(identity: &Identity) -> pb::BootstrapCluster {
    pb::BootstrapCluster {
        cluster_id: identity.cluster_id.clone(),
        shards: u32::from(identity.shards),
        level: meta::MAX_FEATURE_LEVEL,
        region: identity.region.clone(),
        incarnation: identity.incarnation,
        plans: meta::default_plans(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = 1000;

    fn account(id: u8, buckets: u32, empty_since: u64) -> pb::RestoredAccount {
        let row = pb::Account {
            created_at: 1,
            empty_since,
            buckets,
        };
        pb::RestoredAccount {
            id: vec![id; 32].into(),
            account: Some(row),
        }
    }

    fn bucket(id: &'static str, owner: u8, dropping: bool) -> pb::RestoredBucket {
        let row = pb::Bucket {
            account: vec![owner; 32].into(),
            dropping,
            dropped_in: vec![3],
            ..Default::default()
        };
        pb::RestoredBucket {
            id: id.into(),
            bucket: Some(row),
        }
    }

    #[test]
    fn accounts_count_the_buckets_that_are_restored() {
        let accounts = vec![
            account(1, 9, 5),
            account(2, 1, 0),
            account(3, 0, 7),
            account(4, 2, 0),
        ];
        let buckets = vec![
            bucket("aaaaaaaaaaaaaa", 1, false),
            bucket("abbbbbbbbbbbbb", 4, false),
            bucket("accccccccccccc", 4, false),
            bucket("addddddddddddd", 2, true),
            bucket("aeeeeeeeeeeeee", 5, false),
        ];
        let metadata = RestoredMetadata::prepare(accounts, buckets, Vec::new(), NOW);
        let expected = [
            account(1, 1, 0),
            account(2, 0, NOW),
            account(3, 0, 7),
            account(4, 2, 0),
        ];
        assert_eq!(metadata.accounts, expected);
        let ids = ["aaaaaaaaaaaaaa", "abbbbbbbbbbbbb", "accccccccccccc"];
        let ids = ids.map(|id| BucketId::parse(id.as_bytes()).unwrap());
        assert_eq!(metadata.bucket_ids(), HashSet::from(ids));
        let rows = metadata.buckets.iter().flat_map(|it| &it.bucket);
        assert!(rows.into_iter().all(|row| row.dropped_in.is_empty()));
        let omissions = metadata.describe_omissions().unwrap();
        assert!(
            omissions.starts_with("1 buckets were left out"),
            "{omissions}"
        );
    }

    #[test]
    fn commands_are_bounded_and_in_the_order_of_their_dependencies() {
        let accounts = (0..=MAX_COMMAND_ROWS).map(|_| account(1, 0, 0)).collect();
        let buckets = vec![bucket("aaaaaaaaaaaaaa", 1, false)];
        let metadata = RestoredMetadata::prepare(accounts, buckets, meta::default_plans(), NOW);
        let commands = metadata.into_commands();
        let sizes = commands
            .iter()
            .map(|it| (it.plans.len(), it.accounts.len(), it.buckets.len()));
        let expected = [(3, 0, 0), (0, MAX_COMMAND_ROWS, 0), (0, 1, 0), (0, 0, 1)];
        assert!(sizes.eq(expected));
    }
}
