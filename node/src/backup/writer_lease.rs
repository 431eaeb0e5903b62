//! Lease of the node that writes a backup: no other one goes on with it meanwhile.
//!
//! The lease is a file of the backup, which its holder renews. There is no better lock that all
//! stores offer: two nodes that take it in the same moment both see themselves as its holder, until
//! one of them finds the other's name there. So the holder looks before each file that it writes or
//! deletes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::error::BackupError;
use super::format::{from_json, to_json};
use super::target::BackupTarget;

/// File of the lease.
pub(super) const LEASE_FILE: &str = "writer.json";
/// Time after which a lease that isn't renewed has ended.
const LEASE_TIME: Duration = Duration::from_secs(60);
/// Interval at which it is renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(15);

/// Content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    /// Name of the node.
    node: String,
    /// Seconds since 1970.
    renewed_at: u64,
}

/// Lease that this node holds. It isn't renewed any more when this is dropped.
pub(super) struct WriterLease {
    target: BackupTarget,
    id: Arc<str>,
    node: Arc<str>,
    _renewal: AbortOnDropHandle<()>,
}

impl WriterLease {
    /// Takes the lease of backup `id` for a node, which may have held it before.
    ///
    /// # Errors
    /// Fails with [`BackupError::Busy`] if another node holds it.
    pub(super) async fn take(
        target: &BackupTarget,
        id: &Arc<str>,
        node: &Arc<str>,
    ) -> Result<Self, BackupError> {
        if let Some(lease) = read(target, id).await? {
            let age = now().saturating_sub(lease.renewed_at);
            if lease.node != **node && age < LEASE_TIME.as_secs() {
                return Err(BackupError::Busy {
                    id: id.to_string(),
                    node: lease.node,
                    seconds: LEASE_TIME.as_secs() - age,
                });
            }
        }
        write(target, id, node).await?;
        let renewal = renew(target.clone(), id.clone(), node.clone());
        Ok(Self {
            target: target.clone(),
            id: id.clone(),
            node: node.clone(),
            _renewal: AbortOnDropHandle::new(tokio::spawn(renewal)),
        })
    }

    /// Returns an error if another node has taken the lease.
    pub(super) async fn check(&self) -> Result<(), BackupError> {
        match read(&self.target, &self.id).await? {
            Some(lease) if lease.node == *self.node => Ok(()),
            lease => Err(BackupError::Busy {
                id: self.id.to_string(),
                node: lease.map_or_else(|| "another".to_owned(), |lease| lease.node),
                seconds: LEASE_TIME.as_secs(),
            }),
        }
    }

    /// Gives the lease back, so that another node can go on at once.
    pub(super) async fn give_back(self) {
        let Self {
            target, id, node, ..
        } = &self;
        // It ends by itself if that fails.
        if let Ok(Some(lease)) = read(target, id).await
            && lease.node == **node
        {
            let _ = target.delete(id, LEASE_FILE).await;
        }
    }
}

async fn renew(target: BackupTarget, id: Arc<str>, node: Arc<str>) {
    loop {
        tokio::time::sleep(RENEWAL_INTERVAL).await;
        match read(&target, &id).await {
            Ok(Some(lease)) if lease.node == *node => {
                // Tried again after the interval.
                let _ = write(&target, &id, &node).await;
            }
            Ok(_) => return,
            Err(_) => {}
        }
    }
}

async fn read(target: &BackupTarget, id: &str) -> Result<Option<Lease>, BackupError> {
    let json = target.find(id, LEASE_FILE).await?;
    json.map(|json| from_json(LEASE_FILE, &json)).transpose()
}

async fn write(target: &BackupTarget, id: &str, node: &str) -> Result<(), BackupError> {
    let lease = Lease {
        node: node.to_owned(),
        renewed_at: now(),
    };
    target
        .put(id, LEASE_FILE, to_json(LEASE_FILE, &lease)?)
        .await
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "20261201T034500Z";

    fn target() -> (tempfile::TempDir, BackupTarget) {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().display());
        (dir, BackupTarget::open(&url).unwrap())
    }

    fn is_busy(result: Result<WriterLease, BackupError>) -> bool {
        matches!(result, Err(BackupError::Busy { .. }))
    }

    #[tokio::test]
    async fn one_node_at_a_time_holds_the_lease() {
        let (_dir, target) = target();
        let (id, one, two) = (Arc::from(ID), Arc::from("n1"), Arc::from("n2"));
        let lease = WriterLease::take(&target, &id, &one).await.unwrap();
        lease.check().await.unwrap();
        assert!(is_busy(WriterLease::take(&target, &id, &two).await));
        // A node that was restarted goes on.
        let again = WriterLease::take(&target, &id, &one).await.unwrap();
        again.give_back().await;
        let other = WriterLease::take(&target, &id, &two).await.unwrap();
        other.check().await.unwrap();
        assert!(lease.check().await.is_err());
        lease.give_back().await;
        other.check().await.unwrap();
    }

    #[tokio::test]
    async fn a_lease_that_is_not_renewed_ends() {
        let (_dir, target) = target();
        let (id, two): (Arc<str>, Arc<str>) = (Arc::from(ID), Arc::from("n2"));
        let old = |age: u64| Lease {
            node: "n1".to_owned(),
            renewed_at: now() - age,
        };
        for (age, is_held) in [(30, true), (61, false)] {
            let json = to_json(LEASE_FILE, &old(age)).unwrap();
            target.put(&id, LEASE_FILE, json).await.unwrap();
            let taken = WriterLease::take(&target, &id, &two).await;
            assert_eq!(is_busy(taken), is_held, "{age}");
        }
    }
}
