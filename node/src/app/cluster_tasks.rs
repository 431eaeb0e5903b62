//! Runs the node's part in the cluster: failure detection, placement, replication between regions,
//! and the comparison of replicas.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use tokio::task::JoinHandle;

use super::node::Node;
use crate::cluster::{ConsistencyChecker, PlacementController};
use crate::meta;

impl Node {
    /// Runs the placement controller and the consistency checker, and beside them the failure
    /// detector and the replication between regions. Returns the reason once this node has been
    /// removed from the cluster.
    pub(super) async fn run_cluster_tasks(&self) -> String {
        let groups = &self.components.groups;
        let watch = groups
            .failure_detector
            .clone()
            .run(groups.peers.clone(), self.stop.groups.clone());
        self.tasks.spawn_on(watch, &self.raft_runtime);
        self.tasks
            .spawn(self.geo.clone().run(self.stop.groups.clone()));
        let check = self.consistency_checker();
        let check = self.tasks.spawn(check.run(self.stop.placement.clone()));
        let control = Arc::new(self.placement_controller());
        let control = control.run(self.stop.placement.clone());
        let control = self.tasks.spawn_on(control, &self.raft_runtime);
        tokio::select! {
            why = failure_reason(check) => why,
            why = failure_reason(control) => why,
        }
    }

    fn placement_controller(&self) -> PlacementController {
        let components = &self.components;
        let (groups, endpoint) = (&components.groups, &components.endpoint);
        PlacementController {
            identity: groups.identity.clone(),
            registration: pb::RegisterNode {
                node: groups.identity.node_id.into(),
                region: groups.identity.region.clone(),
                rpc: endpoint.rpc.clone(),
                http: endpoint.http.clone(),
                level: meta::MAX_FEATURE_LEVEL,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                name: self.config.name.clone().unwrap_or_default(),
            },
            meta: groups.meta.clone(),
            catalog: groups.catalog.clone(),
            shards: groups.shards.clone(),
            peers: groups.peers.clone(),
            failure_detector: groups.failure_detector.clone(),
            propose: self.service.directory.metadata().proposer(),
            dialer: endpoint.dialer.clone(),
            configured_addresses: self.config.join.clone(),
            disk_space: components.disk_space.clone(),
            meta_gate: components.metadata_gate.clone(),
            stop_node: self.stop.node.clone(),
        }
    }

    fn consistency_checker(&self) -> ConsistencyChecker {
        let groups = &self.components.groups;
        ConsistencyChecker {
            meta: groups.meta.clone(),
            shards: groups.shards.clone(),
            peers: groups.peers.clone(),
            data_dir: self.config.data_dir.clone(),
            mismatches: groups.replica_alarms.clone(),
        }
    }
}

/// Returns the reason for which a task that should run until the node stops has ended early.
async fn failure_reason(task: JoinHandle<Option<String>>) -> String {
    match task.await {
        Ok(None) => std::future::pending().await,
        Ok(Some(why)) => why,
        Err(error) => error.to_string(),
    }
}
