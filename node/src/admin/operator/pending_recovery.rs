//! Stores what the next start of this node is to recover, and stops the node.

use std::io;
use std::path::{Path, PathBuf};

use super::restart_request::RestartRequest;
use crate::admin::RecoveryError;
use crate::cluster::recovery_file::{self, PendingRecovery, RecoveryStep};
use crate::cluster::rejoin_scope::{RejoinScope, SCOPE_FILE};

/// Recovery that the next start of this node is to carry out. Cheap to clone.
#[derive(Clone)]
pub(super) struct RecoveryStore {
    /// Data directory of the node.
    pub data_dir: PathBuf,
    /// Stops the node.
    pub restart: RestartRequest,
}

impl RecoveryStore {
    /// Returns an error if another recovery of this node isn't finished. A file of an earlier
    /// attempt that has failed is replaced.
    pub(super) async fn check_none_pending(&self) -> Result<(), RecoveryError> {
        if self.restart.reason().is_some() {
            return Err(RecoveryError::Pending(
                "a recovery was confirmed already: the node stops, and its next start carries it \
                 out",
            ));
        }
        let pending = self.on_disk("read recovery.json", recovery_file::read);
        match pending.await?.map(|pending| pending.step) {
            Some(RecoveryStep::RegionImport { .. }) => Err(RecoveryError::Pending(
                "the last recovery of this region isn't finished: what this node had exported is \
                 still being imported; wait for that",
            )),
            Some(
                RecoveryStep::Metadata
                | RecoveryStep::Shards { .. }
                | RecoveryStep::RegionExport { .. }
                | RecoveryStep::RegionJoin { .. },
            )
            | None => Ok(()),
        }
    }

    /// Stores the recovery durably; for a region that joins anew, with what this node imports then.
    pub(super) async fn store(
        &self,
        pending: PendingRecovery,
        scope: Option<RejoinScope>,
    ) -> Result<(), RecoveryError> {
        let write = move |dir: &Path| {
            // The recovery is read only where its file exists, so that file is the last.
            match scope {
                Some(scope) => scope.write(dir, SCOPE_FILE)?,
                None => RejoinScope::remove(dir)?,
            }
            recovery_file::write(dir, &pending)
        };
        self.on_disk("write recovery.json", write).await
    }

    /// Returns whether the next start exports what this node has, since its region joins anew.
    pub(super) async fn is_export_stored(&self) -> Result<bool, RecoveryError> {
        let pending = self.on_disk("read recovery.json", recovery_file::read);
        Ok(pending.await?.is_some_and(|pending| is_export(&pending)))
    }

    /// Withdraws that, durably. A recovery that has come further, or of other groups, stays.
    pub(super) async fn withdraw_export(&self) -> Result<(), RecoveryError> {
        let remove = |dir: &Path| {
            if recovery_file::read(dir)?.is_some_and(|pending| is_export(&pending)) {
                recovery_file::remove(dir)?;
                RejoinScope::remove(dir)?;
            }
            Ok(())
        };
        self.on_disk("remove recovery.json", remove).await
    }

    /// Runs an operation on the data directory on a thread that may block.
    async fn on_disk<T: Send + 'static>(
        &self,
        action: &'static str,
        operation: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, RecoveryError> {
        let dir = self.data_dir.clone();
        let done = tokio::task::spawn_blocking(move || operation(&dir)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| RecoveryError::Storage { action, source })
    }
}

fn is_export(pending: &PendingRecovery) -> bool {
    matches!(pending.step, RecoveryStep::RegionExport { .. })
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::types::NodeId;

    fn pending(step: RecoveryStep) -> PendingRecovery {
        PendingRecovery {
            node: NodeId::from(1),
            step,
            lost: vec![NodeId::from(2)],
        }
    }

    #[tokio::test]
    async fn a_recovery_replaces_an_earlier_one_but_not_one_that_still_imports() {
        let dir = tempfile::tempdir().unwrap();
        let store = RecoveryStore {
            data_dir: dir.path().to_owned(),
            restart: RestartRequest::new(CancellationToken::new()),
        };
        store.check_none_pending().await.unwrap();
        let scope = RejoinScope {
            region: 2,
            shards: Vec::new(),
        };
        let (region, join) = ("us".to_owned(), Vec::new());
        let export = pending(RecoveryStep::RegionExport { region, join });
        store
            .store(export.clone(), Some(scope.clone()))
            .await
            .unwrap();
        assert_eq!(recovery_file::read(dir.path()).unwrap(), Some(export));
        let stored = RejoinScope::read(dir.path(), SCOPE_FILE).unwrap();
        assert_eq!(stored, Some(scope));
        assert!(store.is_export_stored().await.unwrap());
        store.check_none_pending().await.unwrap();
        let metadata = pending(RecoveryStep::Metadata);
        store.store(metadata.clone(), None).await.unwrap();
        assert_eq!(recovery_file::read(dir.path()).unwrap(), Some(metadata));
        assert_eq!(RejoinScope::read(dir.path(), SCOPE_FILE).unwrap(), None);
        let region = "us".to_owned();
        let import = pending(RecoveryStep::RegionImport { region });
        store.store(import, None).await.unwrap();
        let refused = store.check_none_pending().await.unwrap_err();
        assert!(matches!(refused, RecoveryError::Pending(_)), "{refused}");
    }

    #[tokio::test]
    async fn only_an_export_is_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let store = RecoveryStore {
            data_dir: dir.path().to_owned(),
            restart: RestartRequest::new(CancellationToken::new()),
        };
        store.withdraw_export().await.unwrap();
        let (region, join) = ("us".to_owned(), Vec::new());
        let export = pending(RecoveryStep::RegionExport { region, join });
        store
            .store(export, Some(RejoinScope::default()))
            .await
            .unwrap();
        store.withdraw_export().await.unwrap();
        assert_eq!(recovery_file::read(dir.path()).unwrap(), None);
        assert_eq!(RejoinScope::read(dir.path(), SCOPE_FILE).unwrap(), None);
        let region = "us".to_owned();
        let import = pending(RecoveryStep::RegionImport { region });
        store.store(import.clone(), None).await.unwrap();
        store.withdraw_export().await.unwrap();
        assert!(!store.is_export_stored().await.unwrap());
        assert_eq!(recovery_file::read(dir.path()).unwrap(), Some(import));
    }

    #[tokio::test]
    async fn a_node_that_stops_for_a_recovery_takes_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = RecoveryStore {
            data_dir: dir.path().to_owned(),
            restart: RestartRequest::new(CancellationToken::new()),
        };
        store.restart.request("stopped".to_owned());
        let refused = store.check_none_pending().await.unwrap_err();
        assert!(matches!(refused, RecoveryError::Pending(_)), "{refused}");
    }
}
