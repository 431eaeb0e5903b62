//! Keeps the file of the cluster's nodes up to date, which helps to recover a damaged data
//! directory: see [`NodeList`].
//!
//! Invariant: before a node serves users, the file lists the nodes that it knows. So whoever finds
//! acknowledged writes in a damaged log also finds which other nodes may hold them.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::NodeList;
use crate::meta::Catalog;

/// Writer of the node list.
pub(crate) struct NodeListWriter {
    catalog: Arc<Catalog>,
    data_dir: PathBuf,
    /// The list as it was last saved, if it was; locked while it is written, so that a newer list
    /// is never replaced by an older one.
    saved: Arc<Mutex<Option<NodeList>>>,
}

impl NodeListWriter {
    /// Creates a writer that has saved nothing yet.
    pub(crate) fn new(catalog: Arc<Catalog>, data_dir: PathBuf) -> Self {
        Self {
            catalog,
            data_dir,
            saved: Arc::default(),
        }
    }

    /// Saves the list if it has changed. A failure is logged: the node serves without the list.
    pub(crate) async fn save_changes(&self) {
        let (catalog, dir) = (self.catalog.clone(), self.data_dir.clone());
        let saved = self.saved.clone();
        let save = move || {
            let mut saved = saved.lock();
            let current = NodeList::from_topology(&catalog.topology());
            // Without nodes, the metadata hasn't reached this node yet.
            if current.nodes.is_empty() || saved.as_ref() == Some(&current) {
                return;
            }
            match current.save(&dir) {
                Ok(()) => *saved = Some(current),
                Err(error) => tracing::warn!(%error, "writing nodes.json failed"),
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(save).await {
            tracing::error!(%error, "writing nodes.json failed");
        }
    }

    /// Saves the list after each change, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.catalog.topology_changes();
        loop {
            self.save_changes().await;
            match stop.run_until_cancelled(changes.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}
