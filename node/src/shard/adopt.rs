//! What a region that joins takes over from another: all records, tombstones and dropped buckets.
//!
//! Invariant: until the last part has come, the shard serves nobody, honours no watermark, merges
//! nothing and collects nothing. A walk that breaks begins again: what it left is true, and nothing
//! that it could meet again is collected anywhere before the region has joined.

use std::io;

use cloudkv_proto::v1 as pb;

use super::record;
use super::state::{Response, ShardState};
use crate::store::Batch;

impl ShardState {
    pub(super) fn apply_adopt(
        &mut self,
        adopt: &pb::Adopt,
        batch: &mut Batch,
    ) -> io::Result<Response> {
        if !self.header.adopting {
            return Ok(Response::Done);
        }
        for bucket in &adopt.dropped {
            self.apply_drop_bucket(bucket, batch)?;
        }
        for adopted in &adopt.records {
            if let Some(record) = &adopted.record {
                let version = record::version_of(record);
                self.take_record(0, adopted, record, version, batch)?;
            }
        }
        if let Some(end) = &adopt.end {
            self.end_adoption(end);
        }
        Ok(Response::Done)
    }

    /// The cursors are those of the walk's view: what came later follows from there.
    fn end_adoption(&mut self, end: &pb::AdoptEnd) {
        for told in &end.cursors {
            let of = |peer: &&mut pb::PeerState| {
                peer.region == told.region && peer.incarnation == told.incarnation
            };
            if let Some(peer) = self.header.peers.iter_mut().find(of) {
                peer.cursor = told.cursor;
                peer.stable = told.stable;
            }
        }
        self.header.last_version = self.header.last_version.max(end.last_version);
        self.header.adopting = false;
    }
}
