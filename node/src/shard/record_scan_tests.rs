//! Tests of scans of all records of a shard.

use cloudkv_proto::v1::{shard_command::Kind, write::Op};

use super::*;
use crate::shard::record;
use crate::shard::test_region::{BUCKET, TestRegion};

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

/// Scans the shard; returns the position, and the records of each chunk.
fn scan(region: &TestRegion) -> ((u64, Nanos), Vec<Vec<pb::KeyRecord>>) {
    let (mut start, mut chunks) = (None, Vec::new());
    let scanned = region.view().scan_records(NOW, |chunk| {
        match chunk {
            RecordChunk::Start {
                applied_index,
                last_version,
            } => assert_eq!(start.replace((applied_index, last_version)), None),
            RecordChunk::Records(records) => {
                assert!(start.is_some() && !records.is_empty());
                chunks.push(records);
            }
        }
        Ok(())
    });
    scanned.unwrap();
    (start.unwrap(), chunks)
}

#[test]
fn a_scan_has_the_live_records_of_all_buckets_without_positions() {
    let mut region = TestRegion::new(1, false);
    let other = pb::Peer {
        region: 2,
        incarnation: 102,
    };
    region.set_peers(1, vec![other]);
    let value = || b"value".to_vec();
    let delete = pb::Write {
        op: Some(Op::Delete(pb::Delete {})),
        ..put(BUCKET, "deleted", value(), 0)
    };
    let writes = vec![
        put(OTHER_BUCKET, "a", value(), 0),
        put(BUCKET, "b", value(), 2 * NOW),
        put(BUCKET, "a", value(), 0),
        put(BUCKET, "deleted", value(), 0),
        put(BUCKET, "expired", value(), 1),
        delete,
    ];
    apply(&mut region, writes);
    let (start, chunks) = scan(&region);
    assert_eq!(
        start,
        (region.written_index(), region.view().last_version())
    );
    let records = chunks.concat();
    let mut names: Vec<(&[u8], &[u8])> = records
        .iter()
        .map(|found| (&found.bucket[..], &found.key[..]))
        .collect();
    names.sort_unstable();
    let mut expected = [
        (&BUCKET[..], &b"a"[..]),
        (&BUCKET[..], b"b"),
        (&OTHER_BUCKET[..], b"a"),
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    for found in &records {
        let record = found.record.clone().unwrap();
        assert_eq!((record.change, record.source), (0, 0));
        let read = region.view().get(&found.bucket, &found.key, NOW).unwrap();
        assert_eq!(read.into_value(), Some(record::into_entry(record)));
    }
}

#[test]
fn chunks_are_bounded_in_records_and_bytes() {
    let mut region = TestRegion::new(1, false);
    let sizes = |region: &TestRegion| {
        let (_, chunks) = scan(region);
        chunks.iter().map(Vec::len).collect::<Vec<_>>()
    };
    let small = |number| put(BUCKET, &format!("s{number:05}"), vec![], 0);
    apply(
        &mut region,
        (0..=2 * MAX_CHUNK_RECORDS).map(small).collect(),
    );
    assert_eq!(sizes(&region), [MAX_CHUNK_RECORDS, MAX_CHUNK_RECORDS, 1]);
    let mut region = TestRegion::new(1, false);
    let large = |number| put(BUCKET, &format!("l{number}"), vec![7; 300 << 10], 0);
    apply(&mut region, (0..5).map(large).collect());
    assert_eq!(sizes(&region), [2, 2, 1]);
}

#[test]
fn a_reader_that_is_gone_ends_the_scan() {
    let mut region = TestRegion::new(1, false);
    apply(&mut region, vec![put(BUCKET, "a", vec![], 0)]);
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let scanned = region.view().scan_records(NOW, |_| Err(gone()));
    assert_eq!(scanned.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
