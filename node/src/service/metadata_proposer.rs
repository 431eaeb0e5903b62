//! Lets the modules below reach the metadata's leader: the cluster's own commands are proposed in
//! the same way as all others.

use std::sync::Arc;

use super::MetadataClient;
use crate::cluster::{MetadataProposer, ProposalError, Refresher};
use crate::meta::{CommandRefusal, NodeRefusal};

impl MetadataClient {
    /// Builds the function that lets the metadata catch up with its leader.
    pub(crate) fn refresher(&self) -> Refresher {
        let metadata = self.clone();
        Arc::new(move || {
            let metadata = metadata.clone();
            Box::pin(async move { metadata.barrier().await.is_ok() })
        })
    }

    /// Builds the function that proposes the cluster's own commands.
    pub(crate) fn proposer(&self) -> MetadataProposer {
        let metadata = self.clone();
        Arc::new(move |command| {
            let metadata = metadata.clone();
            Box::pin(async move {
                match metadata.propose(command).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(refusal)) => Err(proposal_error(&refusal)),
                    Err(error) => Err(ProposalError {
                        reason: error.to_string(),
                        is_final: false,
                        needs_operator: false,
                    }),
                }
            })
        })
    }
}

fn proposal_error(refusal: &CommandRefusal) -> ProposalError {
    // The node with that address may be lost, and soon be replaced.
    let is_address_taken = matches!(
        refusal,
        CommandRefusal::Node(NodeRefusal::AddressTaken { .. })
    );
    // The caller may not know yet that the region was removed: a node that joins it anew adds it.
    let is_region_unknown = matches!(refusal, CommandRefusal::Node(NodeRefusal::UnknownRegion));
    ProposalError {
        reason: refusal.to_string(),
        is_final: !is_address_taken && !is_region_unknown,
        needs_operator: is_address_taken,
    }
}
