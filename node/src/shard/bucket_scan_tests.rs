//! Tests of scans of a bucket.

use cloudkv_proto::v1::{self as pb, shard_command::Kind, write::Op};

use super::*;
use crate::shard::test_region::{BUCKET, TestRegion};
use crate::store::keys::{GroupId, Rows};

const OTHER_BUCKET: &[u8; 14] = b"aBBBBBBBBBBBBB";
/// Time of all scans.
const NOW: Nanos = 1 << 32;

fn put(bucket: &'static [u8], key: &str, value: Vec<u8>, ttl: u64) -> pb::Write {
    pb::Write {
        bucket: Bytes::from_static(bucket),
        key: Bytes::copy_from_slice(key.as_bytes()),
        op: Some(Op::Put(pb::Put {
            value: Bytes::from(value),
            content_type: Bytes::from_static(b"text/x"),
            metadata: Bytes::from_static(b"{\"a\":1}"),
            ttl,
            may_create: true,
            ..Default::default()
        })),
        condition: None,
    }
}

fn apply(region: &mut TestRegion, writes: Vec<pb::Write>) {
    let time = region.clock;
    region.apply(Kind::Writes(pb::WriteBatch { time, writes }));
}

/// Scans the bucket; returns the index, and the records of each chunk.
fn scan(region: &TestRegion, prefix: &str) -> (u64, Vec<Vec<(Bytes, StoredValue)>>) {
    let (mut index, mut chunks) = (None, Vec::new());
    let view = region.view();
    let scanned = view.scan_bucket(BUCKET, prefix.as_bytes(), NOW, |chunk| {
        match chunk {
            ScanChunk::Start { applied_index } => {
                assert_eq!(index.replace(applied_index), None);
            }
            ScanChunk::Records(records) => {
                assert!(index.is_some() && !records.is_empty());
                chunks.push(records);
            }
        }
        Ok(())
    });
    scanned.unwrap();
    (index.unwrap(), chunks)
}

#[test]
fn a_scan_has_the_live_keys_of_its_bucket_and_prefix() {
    let mut region = TestRegion::new(1, false);
    let other = pb::Peer {
        region: 2,
        incarnation: 102,
    };
    region.set_peers(1, vec![other]);
    let value = || b"value".to_vec();
    let delete = pb::Write {
        op: Some(Op::Delete(pb::Delete {})),
        ..put(BUCKET, "a/3", value(), 0)
    };
    let writes = vec![
        put(BUCKET, "b", value(), 0),
        put(BUCKET, "a/2", value(), 0),
        put(BUCKET, "a/1", value(), 2 * NOW),
        put(BUCKET, "a/3", value(), 0),
        put(BUCKET, "a/4", value(), 1),
        put(OTHER_BUCKET, "a/5", value(), 0),
        delete,
    ];
    apply(&mut region, writes);
    let names = ["a/1", "a/2", "b"];
    for (prefix, expected) in [("", &names[..]), ("a/", &names[..2])] {
        let (index, chunks) = scan(&region, prefix);
        assert_eq!(index, region.written_index());
        let records = chunks.concat();
        let names: Vec<&[u8]> = records.iter().map(|(key, _)| &key[..]).collect();
        let expected: Vec<&[u8]> = expected.iter().map(|name| name.as_bytes()).collect();
        assert_eq!(names, expected);
        for (key, stored) in records {
            let read = region.view().get(BUCKET, &key, NOW).unwrap();
            assert_eq!(read.into_value(), Some(stored));
        }
    }
    assert_eq!(scan(&region, "c"), (region.written_index(), vec![]));
}

#[test]
fn chunks_are_bounded_in_records_and_bytes() {
    let mut region = TestRegion::new(1, false);
    let sizes = |region: &TestRegion, prefix| {
        let (_, chunks) = scan(region, prefix);
        chunks.iter().map(Vec::len).collect::<Vec<_>>()
    };
    let small = |number| put(BUCKET, &format!("s{number:05}"), vec![], 0);
    apply(&mut region, (0..2 * MAX_CHUNK_RECORDS).map(small).collect());
    assert_eq!(sizes(&region, "s"), [MAX_CHUNK_RECORDS; 2]);
    apply(&mut region, vec![small(2 * MAX_CHUNK_RECORDS)]);
    let expected = [MAX_CHUNK_RECORDS, MAX_CHUNK_RECORDS, 1];
    assert_eq!(sizes(&region, "s"), expected);
    let large = |number| put(BUCKET, &format!("l{number}"), vec![7; 300 << 10], 0);
    apply(&mut region, (0..5).map(large).collect());
    assert_eq!(sizes(&region, "l"), [2, 2, 1]);
}

#[test]
fn a_scan_calls_its_reader_among_dead_rows_too() {
    let mut region = TestRegion::new(1, false);
    let dead = |number| put(BUCKET, &format!("d{number:05}"), vec![], 1);
    apply(&mut region, (0..2 * MAX_CHUNK_ROWS + 1).map(dead).collect());
    apply(&mut region, vec![put(BUCKET, "live", vec![], 0)]);
    let mut chunks = Vec::new();
    let scanned = region.view().scan_bucket(BUCKET, b"", NOW, |chunk| {
        if let ScanChunk::Records(records) = chunk {
            chunks.push(records.len());
        }
        Ok(())
    });
    scanned.unwrap();
    assert_eq!(chunks, [0, 0, 1]);
}

#[test]
fn a_scan_has_nothing_that_was_written_after_its_beginning() {
    let mut region = TestRegion::new(1, false);
    region.put(1, "before", 0);
    let (before, view) = (region.written_index(), region.view());
    let mut chunks = Vec::new();
    let scanned = view.scan_bucket(BUCKET, b"", NOW, |chunk| {
        chunks.push(chunk);
        region.put(1, "changed", 0);
        region.put(2, "added", 0);
        Ok(())
    });
    scanned.unwrap();
    let [
        ScanChunk::Start { applied_index },
        ScanChunk::Records(records),
    ] = &chunks[..]
    else {
        panic!("{chunks:?}");
    };
    assert_eq!(*applied_index, before);
    let values: Vec<&[u8]> = records.iter().map(|(_, it)| &it.value[..]).collect();
    assert_eq!(values, [b"before"]);
}

#[test]
fn a_scan_fails_if_its_rows_were_replaced_and_ends_when_its_reader_does() {
    let mut region = TestRegion::new(1, false);
    region.put(1, "value", 0);
    let view = region.view();
    let mut count = 0;
    let scanned = view.scan_bucket(BUCKET, b"", NOW, |_| {
        count += 1;
        Err(io::Error::other("the reader has gone"))
    });
    assert_eq!(scanned.unwrap_err().to_string(), "the reader has gone");
    assert_eq!(count, 1);
    let scanned = view.scan_bucket(BUCKET, b"", NOW, |_| {
        let rows = Rows::new(GroupId::shard(0), 2);
        crate::raft::MachineState::reload(&mut region.state, rows).unwrap();
        Ok(())
    });
    let error = scanned.unwrap_err().to_string();
    assert!(error.contains("was replaced"), "{error}");
}
