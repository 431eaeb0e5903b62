//! Removes a lost region from the cluster.

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::metadata_voters::describe_metadata_voters;
use super::node_loss::wait_until_lost;
use crate::admin::RegionError;
use crate::cluster::LocalGroups;
use crate::meta::CommandRefusal;
use crate::service::MetadataClient;

/// Removes regions, in metadata that is as new as the leader's.
pub(super) struct RegionRemover {
    pub metadata: MetadataClient,
    pub groups: Arc<LocalGroups>,
}

impl RegionRemover {
    /// Proposes the removal of a region without reachable nodes. One that is being removed already
    /// is no error.
    pub(super) async fn remove(&self, name: String) -> Result<(), RegionError> {
        if let Err(error) = self.metadata.barrier().await {
            let state = describe_metadata_voters(&self.groups);
            return Err(RegionError::Unavailable(format!("{error}: {state}")));
        }
        let topology = self.groups.catalog.topology();
        let number = topology.region_number(&name);
        let number = number.ok_or_else(|| RegionError::Unknown(name.clone()))?;
        if topology
            .region(number)
            .is_some_and(|region| region.is_removing)
        {
            return Ok(());
        }
        // Refused here and not by the metadata: until that decides, another region may have joined,
        // and then the removal of one whose nodes are alive would be accepted.
        if topology.all_regions().len() == 1 {
            return Err(RegionError::Refused(CommandRefusal::LastRegion.to_string()));
        }
        for node in topology.nodes_of(number) {
            if !wait_until_lost(&self.groups, node.id).await {
                let (region, node) = (name, topology.unique_name(node).to_owned());
                return Err(RegionError::StillAlive { region, node });
            }
        }
        let command = Command::RemoveRegion(pb::RemoveRegion { name });
        match self.metadata.propose(command).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(RegionError::Refused(refusal.to_string())),
            Err(error) => Err(RegionError::Unavailable(error.to_string())),
        }
    }
}
