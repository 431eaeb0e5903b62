//! Waits until a node that has started can serve users, and bootstraps a new cluster.

use std::time::Duration;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::components::Components;
use super::start_log::describe_blocked;
use crate::meta;

/// Time after which a node that finds no leader for some shard serves users nevertheless.
const SERVING_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum interval between two checks.
const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(50);

impl Components {
    /// Waits until requests for keys can be answered, and bootstraps the cluster if necessary. If
    /// some shard has no known leader, it waits no longer than [`SERVING_TIMEOUT`]: clients are
    /// better served with an error than with no answer. Passes to `report` what it waits for.
    pub(super) async fn wait_until_serving(&self, report: impl Fn(String)) {
        let mut delay = Duration::from_millis(1);
        while !self.readiness.serves_keys() {
            if self.readiness.is_region_open() && self.readiness.uptime() > SERVING_TIMEOUT {
                return;
            }
            if self.groups.meta.may_read() {
                self.bootstrap().await;
            }
            let blocked = describe_blocked(&self.readiness.key_blockers());
            if !blocked.is_empty() {
                report(format!("its region to be ready ({blocked})"));
            }
            tokio::time::sleep(delay).await;
            delay = (2 * delay).min(MAX_CHECK_INTERVAL);
        }
    }

    /// Bootstraps the cluster if it is new. If it exists already, the command is refused and has no
    /// effect.
    async fn bootstrap(&self) {
        let groups = &self.groups;
        let identity = &groups.identity;
        if !identity.bootstraps_cluster || !groups.catalog.header().cluster_id.is_empty() {
            return;
        }
        let bootstrap = pb::BootstrapCluster {
            cluster_id: identity.cluster_id.clone(),
            shards: u32::from(identity.shards),
            level: meta::MAX_FEATURE_LEVEL,
            region: identity.region.clone(),
            incarnation: identity.incarnation,
            plans: meta::default_plans(),
            node: identity.node_id.into(),
            rpc: self.endpoint.rpc.clone(),
            http: self.endpoint.http.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let command = pb::MetaCommand {
            time: groups.clock.now(),
            kind: Some(Command::Bootstrap(bootstrap)),
        };
        // The outcome shows in the catalog.
        let _ = groups.meta.propose(command).await;
    }
}
