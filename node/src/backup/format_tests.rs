//! Tests of names and JSON files of backups.

use super::*;

fn part(dir: &str, records: u64) -> PartEntry {
    PartEntry {
        name: part_name(dir, 0),
        bytes: 100,
        sha256: sha256_hex(dir.as_bytes()),
        records,
    }
}

fn manifest() -> Manifest {
    let shard = |shard: u16| ShardEntry {
        shard,
        applied_index: 7,
        last_version: 1_700_000_000_000_000_001,
        records: 5,
        parts: vec![part(&shard_dir(shard), 5)],
    };
    let unsealed = Manifest {
        start: BackupStart {
            format: FORMAT,
            id: "20261201T034500Z".to_owned(),
            cluster_id: "c".to_owned(),
            region: "eu".to_owned(),
            shards: 2,
            version: "0.2.0".to_owned(),
            started_at: "2026-12-01T03:45:00Z".to_owned(),
        },
        finished_at: "2026-12-01T03:46:00Z".to_owned(),
        level: 2,
        metadata: vec![part(METADATA_DIR, 3)],
        shard_files: vec![shard(0), shard(1)],
        records: 10,
        bytes: 300,
        checksum: "replaced".to_owned(),
    };
    unsealed.seal().unwrap()
}

#[test]
fn ids_are_utc_times_and_sort_by_them() {
    assert_eq!(id_at(0), "19700101T000000Z");
    assert_eq!(id_at(1_796_096_700), "20261201T034500Z");
    assert_eq!(id_at(u64::MAX), "99991231T235959Z");
    for seconds in [0, 951_782_400, 1_796_096_700, MAX_ID_SECONDS] {
        assert_eq!(parse_id(&id_at(seconds)), Some(seconds));
    }
    for other in [
        "",
        "shard-000",
        "20261301T034500Z",
        "20261201T034560Z",
        "20261201 034500Z",
        "20261201T034500",
        "20261201T034500Z1",
        "2026-12-01T03:45:00Z",
        "../20261201T03Z",
        "ä0261201T034500Z",
    ] {
        assert_eq!(parse_id(other), None, "{other}");
    }
}

#[test]
fn files_have_their_documented_names() {
    assert_eq!(part_name(&shard_dir(3), 12), "shard-003/part-00012.zst");
    assert_eq!(shard_file(1234), "shard-1234/shard.json");
    assert_eq!(part_name(METADATA_DIR, 0), "metadata/part-00000.zst");
}

#[test]
fn a_manifest_comes_back_as_it_was_sealed() {
    let manifest = manifest();
    let id = manifest.start.id.clone();
    let json = to_json(MANIFEST_FILE, &manifest).unwrap();
    let read = Manifest::parse(&id, &json).unwrap();
    assert_eq!(read, manifest);
    read.verify_checksum().unwrap();
    read.check_content(&id).unwrap();
    // The layout of the JSON isn't part of the content.
    let pretty = serde_json::to_vec_pretty(&manifest).unwrap();
    let read = Manifest::parse(&id, &pretty).unwrap();
    read.verify_checksum().unwrap();
}

#[test]
fn every_changed_digit_is_noticed() {
    let manifest = manifest();
    let id = manifest.start.id.clone();
    let json = to_json(MANIFEST_FILE, &manifest).unwrap();
    for at in 0..json.len() {
        if !json[at].is_ascii_digit() {
            continue;
        }
        let mut changed = json.to_vec();
        changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
        let read = Manifest::parse(&id, &changed);
        let read = read.and_then(|read| read.verify_checksum());
        assert!(read.is_err(), "byte {at}");
    }
}

#[test]
fn a_manifest_of_a_later_format_or_with_another_content_is_refused() {
    let later = br#"{"format": 2, "id": "x", "pages": []}"#;
    let error = Manifest::parse("x", later).unwrap_err();
    assert!(error.to_string().contains("later version"), "{error}");
    let id = "20261201T034500Z";
    let assert_refused = |changed: Manifest, why: &str| {
        let error = changed.check_content(id).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(why));
    };
    let mut changed = manifest();
    changed.start.id = id_at(0);
    assert_refused(changed, "of backup 1970");
    let mut changed = manifest();
    changed.shard_files.pop();
    assert_refused(changed, "each shard once");
    let mut changed = manifest();
    changed.shard_files[1].shard = 0;
    assert_refused(changed, "each shard once");
    let mut changed = manifest();
    changed.shard_files[1].parts[0].records = u64::MAX;
    assert_refused(changed, "don't add up");
    let mut changed = manifest();
    changed.records = 9;
    assert_refused(changed, "don't add up");
}
