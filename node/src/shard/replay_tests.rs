//! Tests that a log recorded by each release replays to the digest that the release had.
//!
//! The recording is a file of the repository: commands, each preceded by its length. It is never
//! recorded again: a change that fails this test would make replicas of two versions diverge, or a
//! replayed log yield another state than the one that was acknowledged.

use bytes::{Buf, Bytes};
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::state::ShardState;
use crate::raft::MachineState;
use crate::store::keys::{GroupId, Rows};
use crate::store::{Engine, EngineSettings, RowBatch};

/// Digest that release 0.1 had after applying its recording.
const DIGEST_0_1: u64 = 1_208_548_662_108_564_923;
const LAST_VERSION_0_1: u64 = 1_700_000_406_980_059_775;
const KEYS_0_1: u64 = 60;

fn replay(mut recording: Bytes) -> (pb::ShardHeader, u64) {
    let dir = tempfile::tempdir().unwrap();
    let settings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };
    let engine = Engine::open(dir.path(), &settings).unwrap();
    let rows = Rows::new(GroupId::shard(0), 1);
    let mut state = ShardState::open(engine.state.clone(), rows, 1 << 20).unwrap();
    while recording.has_remaining() {
        let length = recording.get_u32() as usize;
        let command = pb::ShardCommand::decode(recording.split_to(length)).unwrap();
        let mut batch = RowBatch::default();
        state.apply(&command, &mut batch).unwrap();
        state.finish_batch(&mut batch);
        engine.state.write(batch).unwrap();
        state.batch_written();
    }
    let keys = BUCKETS.map(|bucket| state.view().bucket(bucket).unwrap().keys);
    (state.header, keys.iter().sum())
}

const BUCKETS: [&[u8]; 3] = [b"aAAAAAAAAAAAAA", b"aBBBBBBBBBBBBB", b"aCCCCCCCCCCCCC"];

#[test]
fn the_log_of_release_0_1_replays_to_its_digest() {
    let recording = Bytes::from_static(include_bytes!("../../tests/data/shard-log-0.1.bin"));
    let (header, keys) = replay(recording);
    let replayed = (header.digest, header.last_version, keys);
    assert_eq!(replayed, (DIGEST_0_1, LAST_VERSION_0_1, KEYS_0_1));
}
