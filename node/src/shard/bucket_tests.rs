//! Tests of dropped buckets' files on the disk.

use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command, write::Op};

use super::record;
use super::state::{ShardState, StateMemory};
use crate::raft::MachineState;
use crate::store::keys::{self, GroupId, RowKind, Rows};
use crate::store::testing::{LevelFixture, small_engine};
use crate::store::{Engine, RowBatch, Scan};
use crate::types::BucketId;

/// The second bucket sorts between the others.
const BUCKETS: [&[u8; 14]; 3] = [b"aAAAAAAAAAAAAA", b"aBBBBBBBBBBBBB", b"aCCCCCCCCCCCCC"];

fn apply(state: &mut ShardState, command: Command, batch: &mut RowBatch) {
    let kind = Some(command);
    state.apply(&pb::ShardCommand { kind }, batch).unwrap();
}

fn write_batch(engine: &Engine, state: &mut ShardState, mut batch: RowBatch) {
    state.finish_batch(&mut batch);
    engine.state.write(batch).unwrap();
    state.batch_written();
}

fn puts(bucket: &'static [u8], keys: u32, time: u64) -> Command {
    let write = |key: u32| pb::Write {
        bucket: Bytes::from_static(bucket),
        key: key.to_string().into(),
        op: Some(Op::Put(pb::Put {
            value: vec![3; 80].into(),
            may_create: true,
            ..Default::default()
        })),
        condition: None,
    };
    Command::Writes(pb::WriteBatch {
        time,
        writes: (0..keys).map(write).collect(),
    })
}

/// Sums the digests of all stored records.
fn digest_of_rows(engine: &Engine, rows: Rows) -> u64 {
    let (from, to) = rows.all_of_kind(RowKind::Record);
    let mut digest = 0_u64;
    let scan = Scan {
        from,
        to,
        fill_cache: false,
    };
    let add = |row: &[u8], value: &[u8]| {
        let (bucket, key) = keys::split_record(row).unwrap();
        let record = record::decode(Bytes::copy_from_slice(value)).unwrap();
        digest = digest.wrapping_add(record::digest(bucket, key, &record));
        ControlFlow::Continue(())
    };
    engine.state.scan(scan, add).unwrap();
    digest
}

#[test]
fn a_dropped_buckets_records_stay_deleted_after_its_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = small_engine(dir.path());
    let rows = Rows::new(GroupId::shard(0), 1);
    let mut state = ShardState::open(engine.state.clone(), rows, StateMemory::TEST).unwrap();
    let mut batch = RowBatch::default();
    let bootstrap = pb::BootstrapShard {
        region: 1,
        level: 1,
        ..Default::default()
    };
    apply(&mut state, Command::Bootstrap(bootstrap), &mut batch);
    for (bucket, keys) in BUCKETS.into_iter().zip([2000, 2, 2000]) {
        apply(&mut state, puts(bucket, keys, 1), &mut batch);
    }
    write_batch(&engine, &mut state, batch);
    let sorted = LevelFixture::new(&engine.state);
    sorted.compact_to_last_level();
    // The range deletion gets a file of its own, as it does where compaction splits files there.
    let mut batch = RowBatch::default();
    let drop = pb::DropBucket {
        bucket: Bytes::from_static(BUCKETS[1]),
    };
    apply(&mut state, Command::DropBucket(drop), &mut batch);
    engine.state.write(batch).unwrap();
    sorted.flush_above_last_level();
    write_batch(&engine, &mut state, RowBatch::default());
    assert_eq!(digest_of_rows(&engine, rows), state.view().digest());

    let bucket = BucketId::parse(BUCKETS[1]).unwrap();
    state.view().reclaim(&[bucket]).unwrap();
    assert_eq!(digest_of_rows(&engine, rows), state.view().digest());
    let larger = state.view().has_larger_than(BUCKETS[1], 0, 0, 2).unwrap();
    assert!(!larger, "a record of the dropped bucket has reappeared");
}
