//! Seeds a joining region's shard from another region: all records, tombstones and dropped buckets.
//!
//! Invariant: until the last chunk of the bulk copy is applied, the shard serves nobody, honours
//! no watermark, merges nothing and collects nothing. An interrupted bulk copy starts over: what
//! it has applied is valid, and no tombstone that it could meet again is collected anywhere before
//! the region has joined.

use std::io;

use cloudkv_proto::v1 as pb;

use super::record;
use super::response::ShardResponse;
use super::state::ShardState;
use crate::store::RowBatch;

impl ShardState {
    pub(super) fn apply_seed(
        &mut self,
        seed: &pb::SeedChunk,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        if !self.header.seeding {
            return Ok(ShardResponse::Done);
        }
        for bucket in &seed.dropped {
            self.apply_drop_bucket(bucket, batch)?;
        }
        for copied in &seed.records {
            if let Some(record) = &copied.record {
                let version = record::version_of(record);
                self.apply_remote_record(0, copied, record, version, batch)?;
            }
        }
        if let Some(end) = &seed.end {
            self.finish_seeding(end);
        }
        Ok(ShardResponse::Done)
    }

    /// Sets the cursors to those of the bulk copy's view: later changes are sent from there on.
    fn finish_seeding(&mut self, end: &pb::SeedPosition) {
        for cursor in &end.cursors {
            let is_same = |peer: &&mut pb::PeerState| {
                peer.region == cursor.region && peer.incarnation == cursor.incarnation
            };
            if let Some(peer) = self.header.peers.iter_mut().find(is_same) {
                peer.cursor = cursor.cursor;
                peer.stable = cursor.stable;
            }
        }
        self.header.last_version = self.header.last_version.max(end.last_version);
        self.header.seeding = false;
    }
}
