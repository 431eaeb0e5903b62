//! Tests that the log which each release has recorded replays to the state that it had then.
//!
//! A recording is two files in `node/tests/data`: `shard-log-RELEASE.bin` has the commands, each
//! preceded by its length, and `shard-log-RELEASE.json` the state after them. Neither is changed or
//! recorded again once the release is out: a change that fails this test would make replicas of two
//! versions diverge, or a replayed log yield another state than the one that was acknowledged.
//!
//! A release adds its name to [`RELEASES`], new commands to `test_recorder`, and its recording:
//!
//! ```text
//! scripts/cargo test --package cloudkv-node record_the_latest_release -- --ignored
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes};
use cloudkv_proto::v1 as pb;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::state::{ShardState, StateMemory};
use super::test_recorder::{BUCKETS, recorded_region};
use crate::raft::MachineState;
use crate::store::keys::{GroupId, Rows};
use crate::store::{Engine, EngineSettings, RowBatch};

/// Releases with a recording, the latest last.
const RELEASES: [&str; 2] = ["0.1", "0.2"];

/// State after a log.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedState {
    /// Hash of the digests and last versions after each command.
    history: u64,
    level: u32,
    digest: u64,
    last_version: u64,
    change_last: u64,
    change_low: u64,
    retained_changes: u64,
    retained_bytes: u64,
    buckets: Vec<RecordedBucket>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedBucket {
    keys: u64,
    bytes: u64,
    digest: u64,
    dropped: bool,
    hits: u64,
    misses: u64,
}

/// Returns the state after a log, and the shard's header.
fn replay(mut log: Bytes) -> (RecordedState, pb::ShardHeader) {
    let dir = tempfile::tempdir().unwrap();
    let settings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };
    let engine = Engine::open(dir.path(), &settings).unwrap();
    let rows = Rows::new(GroupId::shard(0), 1);
    let mut state = ShardState::open(engine.state.clone(), rows, StateMemory::TEST).unwrap();
    let mut history = 0_u64;
    while log.has_remaining() {
        let length = log.get_u32() as usize;
        let command = pb::ShardCommand::decode(log.split_to(length)).unwrap();
        let mut batch = RowBatch::default();
        state.apply(&command, &mut batch).unwrap();
        state.finish_batch(&mut batch);
        engine.state.write(batch).unwrap();
        state.batch_written();
        for number in [state.header.digest, state.header.last_version] {
            history = history.wrapping_mul(31).wrapping_add(number);
        }
    }
    let buckets = BUCKETS.map(|bucket| {
        let bucket = state.view().bucket(bucket).unwrap();
        RecordedBucket {
            keys: bucket.keys,
            bytes: bucket.bytes,
            digest: bucket.digest,
            dropped: bucket.dropped,
            hits: bucket.hits,
            misses: bucket.misses,
        }
    });
    let header = state.header.clone();
    let replayed = RecordedState {
        history,
        level: header.level,
        digest: header.digest,
        last_version: header.last_version,
        change_last: header.change_last,
        change_low: header.change_low,
        retained_changes: header.retained_changes,
        retained_bytes: header.retained_bytes,
        buckets: buckets.into(),
    };
    (replayed, header)
}

fn encode(commands: &[pb::ShardCommand]) -> Bytes {
    let mut log = Vec::new();
    for command in commands {
        log.put_u32(u32::try_from(command.encoded_len()).unwrap());
        command.encode(&mut log).unwrap();
    }
    Bytes::from(log)
}

/// Returns the paths of a release's log and of the state after it.
fn recording_paths(release: &str) -> [PathBuf; 2] {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    ["bin", "json"].map(|end| dir.join(format!("shard-log-{release}.{end}")))
}

#[test]
fn the_log_of_each_release_replays_to_its_state() {
    for release in RELEASES {
        let files = recording_paths(release);
        let [log, state] = files.map(|path| {
            let read = fs::read(&path);
            read.unwrap_or_else(|error| panic!("read {}: {error}: record it", path.display()))
        });
        let expected: RecordedState = serde_json::from_slice(&state).unwrap();
        assert_eq!(replay(Bytes::from(log)).0, expected, "release {release}");
    }
}

#[test]
fn a_recording_has_commands_of_every_kind_and_a_shard_of_some_content() {
    let region = recorded_region();
    // The numbers of the kinds in `shard.proto`, from the tag that each command begins with.
    let kinds = region.applied.iter();
    let kinds: BTreeSet<u8> = kinds.map(|it| it.encode_to_vec()[0] >> 3).collect();
    let all_kinds: BTreeSet<u8> = (1..=13).collect();
    assert_eq!(kinds, all_kinds);
    let (state, header) = replay(encode(&region.applied));
    assert_eq!(header, region.state.header);
    assert!(state.retained_changes > 0, "{state:?}");
    let (dropped, open) = state.buckets.split_last().unwrap();
    assert!(dropped.dropped && dropped.keys == 0, "{state:?}");
    let is_full = |it: &RecordedBucket| it.keys > 0 && it.hits > 0 && !it.dropped;
    assert!(open.iter().all(is_full), "{state:?}");
}

/// Writes the files of the latest release; fails if there are any.
#[test]
#[ignore = "records a release, once"]
fn record_the_latest_release() {
    let [log_path, state_path] = recording_paths(RELEASES[RELEASES.len() - 1]);
    for path in [&log_path, &state_path] {
        assert!(!path.exists(), "{} was recorded before", path.display());
    }
    let log = encode(&recorded_region().applied);
    let (state, _) = replay(log.clone());
    let mut json = serde_json::to_string_pretty(&state).unwrap();
    json.push('\n');
    fs::write(log_path, &log).unwrap();
    fs::write(state_path, json).unwrap();
}
