//! Status and metrics of the node, for the admin port: the parts are described by their modules.

use std::sync::Arc;

use cloudkv_common::admin::{AdminState, Program, Readiness};
use cloudkv_common::telemetry::metrics::{Exposition, write_process};
use serde_json::{Map, Value, json};

use super::components::Components;
use crate::api::Api;
use crate::backup::BackupStatus;
use crate::cluster::{cluster_status, write_cluster_metrics};
use crate::config::Config;
use crate::geo::RegionMonitor;
use crate::rpc::{certificate_status, write_certificate_metrics};
use crate::store::{storage_status, write_storage_metrics};

/// Source of the node's status and metrics.
pub(super) struct NodeStatus {
    components: Arc<Components>,
    regions: RegionMonitor,
    api: Arc<Api>,
    backups: Arc<BackupStatus>,
    data_dir: String,
}

impl NodeStatus {
    /// Creates the status of a node.
    pub(super) fn new(
        components: Arc<Components>,
        api: Arc<Api>,
        backups: Arc<BackupStatus>,
        config: &Config,
    ) -> Self {
        Self {
            backups,
            regions: components.region_monitor(),
            components,
            api,
            data_dir: config.data_dir.display().to_string(),
        }
    }

    /// Describes the node itself: what belongs to no module below.
    fn own_status(&self) -> Value {
        let components = &self.components;
        let tls = components.endpoint.dialer.tls();
        let groups = components.groups.all();
        let transfers = groups.iter().flat_map(|group| group.transfers().statuses());
        let snapshots: Vec<Value> = transfers.map(|transfer| transfer.to_json()).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "data_dir": self.data_dir,
            "certificate": tls.map(|tls| certificate_status(&tls)),
            "snapshots": snapshots,
            "log_retention": components.log_budget.status(&groups),
        })
    }
}

impl AdminState for NodeStatus {
    fn program(&self) -> Program {
        Program::Node
    }

    fn readiness(&self) -> Readiness {
        self.components.readiness.check()
    }

    fn metrics(&self) -> String {
        let components = &self.components;
        let groups = &components.groups;
        let mut text = Exposition::new();
        self.api.write_metrics(&mut text);
        components.readiness.write_metrics(&mut text);
        for status in groups.statuses() {
            status.write_metrics(&mut text);
        }
        write_cluster_metrics(groups, &mut text);
        if let Some(tls) = components.endpoint.dialer.tls() {
            write_certificate_metrics(&tls, &mut text);
        }
        self.regions
            .write_metrics(&components.retention_budget, &mut text);
        for group in groups.all() {
            group.transfers().write_metrics(&mut text);
        }
        components.log_budget.write_metrics(&mut text);
        write_storage_metrics(&components.engine, &components.disk_space, &mut text);
        groups.catalog.write_metrics(&mut text);
        groups.clock.write_metrics(&mut text);
        self.backups.write_metrics(&mut text);
        write_process(&mut text);
        text.finish()
    }

    fn status(&self) -> Value {
        let components = &self.components;
        let groups = &components.groups;
        let parts = [
            self.own_status(),
            cluster_status(groups, &components.readiness),
            self.regions.status(&components.retention_budget),
            groups.catalog.status(),
            groups.clock.status(),
            self.backups.status(),
            storage_status(&components.engine, &components.disk_space),
        ];
        let mut status = Map::new();
        for part in parts {
            if let Value::Object(fields) = part {
                status.extend(fields);
            }
        }
        Value::Object(status)
    }
}
