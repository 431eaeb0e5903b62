//! Exports: all live keys of a bucket, shard by shard, each shard in one consistent view.
//!
//! ```text
//!   shard 0 ── view, pin ── chunk, rest, chunk, rest ... ─┐
//!   shard 1                                               └─ view, pin ── chunk ... ─┐
//!                                                             position of all views ─┴─ end
//! ```
//!
//! | file | what it does |
//! | --- | --- |
//! | `query` | what is scanned |
//! | `frames` | makes scans for other nodes; their form on the way |
//! | `source` | begins the scan of a shard at its leader |
//! | `pins` | keeps the changes since the views |
//!
//! Invariant: an export that ends without an error has every key that was there from its begin to
//! its end. So the bucket must still exist then: the rows of a deleted one may be gone from views
//! that were taken last.

mod frames;
mod pins;
mod query;
mod source;

use std::sync::Arc;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use tonic::Status;

use self::frames::ScanServer;
use self::pins::ExportPins;
use self::query::ScanQuery;
use self::source::{ScanOpener, ScannedRecords, ShardScan};
use super::directory::Directory;
use super::errors::KeyError;
use super::shards::Shards;
use super::watch::{ResumeToken, Watches};
use crate::background::BackgroundScheduler;
use crate::meta::Bucket;
use crate::rpc::ScanStream;

/// Exports of buckets. Cheap to clone.
#[derive(Clone)]
pub struct Exports {
    opener: ScanOpener,
    directory: Directory,
    server: ScanServer,
    /// Makes the tokens from which a watch goes on.
    watches: Watches,
}

impl Exports {
    /// Creates the exports of this node. All its scans, for itself and for other nodes, share
    /// `scheduler`.
    pub fn new(
        shards: Shards,
        directory: Directory,
        scheduler: BackgroundScheduler,
        watches: Watches,
    ) -> Self {
        Self {
            opener: ScanOpener {
                shards: shards.clone(),
                scheduler: scheduler.clone(),
            },
            directory,
            server: ScanServer::new(shards, scheduler),
            watches,
        }
    }

    /// Prepares the export of a bucket's keys with a prefix, which may be empty. Nothing is read
    /// before the first [`Export::next`].
    pub(crate) fn start(&self, bucket: Arc<Bucket>, prefix: Bytes) -> Result<Export, KeyError> {
        let id = getrandom::u64().map_err(|error| KeyError::Storage(error.into()))?;
        Ok(Export {
            query: ScanQuery {
                bucket: bucket.id,
                prefix,
            },
            exports: self.clone(),
            next_shard: 0,
            scan: None,
            pins: ExportPins::new(self.opener.shards.clone(), id),
        })
    }

    /// Streams a bucket's live keys in a shard that this node leads to another node of the region.
    pub(crate) fn serve_scan(&self, request: &pb::ScanRequest) -> Result<ScanStream, Status> {
        self.server.scan(request)
    }
}

/// Export of one bucket. If it is dropped before its end, its scan ends.
pub(crate) struct Export {
    query: ScanQuery,
    exports: Exports,
    next_shard: u16,
    scan: Option<ShardScan>,
    pins: ExportPins,
}

/// Part of an export.
pub(crate) enum ExportItem {
    /// Keys, in the order of their bytes within a shard.
    Records(ScannedRecords),
    /// The end: the export is whole.
    End {
        /// Position from which a watch misses nothing; `None` if changes since it are gone already.
        since: Option<ResumeToken>,
    },
}

impl Export {
    /// Reads the next part. Not to be called after an error, or after the end.
    pub(crate) async fn next(&mut self) -> Result<ExportItem, KeyError> {
        loop {
            if let Some(scan) = &mut self.scan {
                match scan.next().await? {
                    Some(records) if records.is_empty() => {}
                    Some(records) => return Ok(ExportItem::Records(records)),
                    None => self.scan = None,
                }
            } else if self.next_shard < self.shards().numbers().end {
                self.begin_shard(self.next_shard).await?;
                self.next_shard += 1;
            } else {
                return self.finish().await;
            }
        }
    }

    fn shards(&self) -> &Shards {
        &self.exports.opener.shards
    }

    async fn begin_shard(&mut self, shard: u16) -> Result<(), KeyError> {
        let (scan, applied_index) = self.exports.opener.open(shard, &self.query).await?;
        self.pins.add(shard, applied_index).await;
        self.scan = Some(scan);
        Ok(())
    }

    async fn finish(&mut self) -> Result<ExportItem, KeyError> {
        let positions = self.pins.finish().await;
        let bucket = &self.query.bucket;
        // At the metadata's leader: this node may not know yet that the bucket was deleted.
        if self.exports.directory.find_bucket(bucket).await?.is_none() {
            return Err(KeyError::BucketDeleted);
        }
        let watches = &self.exports.watches;
        let since = positions.map(|positions| watches.token(bucket, positions));
        Ok(ExportItem::End { since })
    }
}
