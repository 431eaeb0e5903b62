use super::*;

fn requested(region: &str, shards: Option<u16>) -> RequestedIdentity {
    RequestedIdentity {
        region: region.into(),
        shards,
        is_joining: false,
        has_log: false,
    }
}

#[test]
fn an_identity_is_drawn_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = Identity::open(dir.path(), &requested("eu", Some(4))).unwrap();
    let again = Identity::open(dir.path(), &requested("eu", None)).unwrap();
    assert_eq!(first, again);
    assert_eq!(first.shards, 4);
    let other = tempfile::tempdir().unwrap();
    let second = Identity::open(other.path(), &requested("eu", None)).unwrap();
    assert_ne!(first.node_id, second.node_id);
    assert_ne!(first.cluster_id, second.cluster_id);
    assert_eq!(second.shards, DEFAULT_SHARDS);
}

#[test]
fn another_number_of_shards_or_region_is_refused_with_both() {
    let dir = tempfile::tempdir().unwrap();
    Identity::open(dir.path(), &requested("eu", Some(4))).unwrap();
    let shards = Identity::open(dir.path(), &requested("eu", Some(8)))
        .unwrap_err()
        .to_string();
    assert!(shards.contains('4') && shards.contains('8'), "{shards}");
    assert!(
        shards.contains("leave --shards out") && !shards.contains("export"),
        "{shards}"
    );
    let region = Identity::open(dir.path(), &requested("us", None))
        .unwrap_err()
        .to_string();
    assert!(region.contains("eu") && region.contains("us"), "{region}");
}

#[test]
fn a_node_that_joins_keeps_its_id_until_it_is_admitted() {
    let dir = tempfile::tempdir().unwrap();
    let joining = RequestedIdentity {
        is_joining: true,
        ..requested("eu", None)
    };
    let first = Identity::open(dir.path(), &joining).unwrap();
    assert!(!first.is_member() && !first.bootstraps_cluster);
    let again = Identity::open(dir.path(), &joining).unwrap();
    assert_eq!(first, again);
    // It was refused, and gets another region.
    let elsewhere = RequestedIdentity {
        region: "us".into(),
        ..joining
    };
    let mut again = Identity::open(dir.path(), &elsewhere).unwrap();
    assert_eq!(
        (again.node_id, again.region.as_str()),
        (first.node_id, "us")
    );
    assert!(matches!(
        Identity::open(dir.path(), &requested("us", None)),
        Err(IdentityError::NotJoined)
    ));
    let response = pb::JoinResponse {
        cluster_id: "c".into(),
        shards: 4,
        region: 1,
        incarnation: 9,
        nodes: vec![],
        ..Default::default()
    };
    again.accept_join(dir.path(), response).unwrap();
    let member = Identity::open(dir.path(), &requested("us", None)).unwrap();
    assert_eq!(member, again);
    assert_eq!((member.node_id, member.shards), (first.node_id, 4));
}

#[test]
fn a_log_without_an_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = RequestedIdentity {
        has_log: true,
        ..requested("eu", None)
    };
    assert!(matches!(
        Identity::open(dir.path(), &wanted),
        Err(IdentityError::MissingFile)
    ));
    assert_eq!(Identity::read(dir.path()), None);
    Identity::generate(&wanted)
        .unwrap()
        .save(dir.path())
        .unwrap();
    let kept = Identity::open(dir.path(), &wanted).unwrap();
    assert_eq!(Identity::read(dir.path()), Some(kept));
}

/// Opens a directory whose file has this format, or none.
fn open_format(format: Option<u32>) -> (tempfile::TempDir, Result<Identity, IdentityError>) {
    let dir = tempfile::tempdir().unwrap();
    Identity::open(dir.path(), &requested("eu", None)).unwrap();
    let path = dir.path().join(FILE);
    let mut stored: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(stored["format"], 1);
    let fields = stored.as_object_mut().unwrap();
    fields.remove("format");
    if let Some(format) = format {
        fields.insert("format".into(), format.into());
    }
    fs::write(&path, stored.to_string()).unwrap();
    let opened = Identity::open(dir.path(), &requested("eu", None));
    let checked = Identity::check_format(dir.path());
    assert_eq!(
        checked.err().map(|error| error.to_string()),
        opened.as_ref().err().map(ToString::to_string)
    );
    assert_eq!(Identity::read(dir.path()).as_ref(), opened.as_ref().ok());
    (dir, opened)
}

#[test]
fn a_data_directory_of_a_preview_is_refused() {
    for format in [None, Some(0)] {
        let (dir, opened) = open_format(format);
        let expected = format!(
            "the data directory {} was written by a preview of cloudkv-node, which this \
             version can't read: start with an empty one",
            dir.path().display()
        );
        assert_eq!(opened.unwrap_err().to_string(), expected);
    }
    let (_dir, opened) = open_format(Some(FORMAT));
    assert_eq!(opened.unwrap().format, FORMAT);
}

#[test]
fn a_data_directory_of_a_later_version_is_refused_whatever_its_identity_is_like() {
    let (dir, opened) = open_format(Some(FORMAT + 1));
    let error = opened.unwrap_err().to_string();
    assert!(error.contains(&dir.path().display().to_string()), "{error}");
    assert!(error.contains("a later version"), "{error}");
    assert!(error.contains("start that version"), "{error}");
    fs::write(dir.path().join(FILE), br#"{"format": 9, "node": "x"}"#).unwrap();
    assert!(matches!(
        Identity::open(dir.path(), &requested("eu", None)),
        Err(IdentityError::LaterFormat { format: 9, .. })
    ));
}

#[test]
fn a_directory_without_a_readable_file_passes_the_check_of_the_format() {
    let dir = tempfile::tempdir().unwrap();
    Identity::check_format(dir.path()).unwrap();
    fs::write(dir.path().join(FILE), b"{").unwrap();
    Identity::check_format(dir.path()).unwrap();
}

#[test]
fn a_damaged_file_is_an_error_and_not_a_new_identity() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), b"{").unwrap();
    assert!(matches!(
        Identity::open(dir.path(), &requested("eu", None)),
        Err(IdentityError::Io { .. })
    ));
}
