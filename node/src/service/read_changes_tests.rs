use proptest::prelude::*;

use super::*;

fn bucket() -> BucketId {
    BucketId::parse(b"aAAAAAAAAAAAAA").unwrap()
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn any_kind() -> impl Strategy<Value = KeyChangeKind> {
    let details = (
        any::<u64>(),
        proptest::option::of(1..u64::MAX),
        any_bytes(),
        any_bytes(),
    );
    let put = details.prop_map(|(size, expires_at, content_type, metadata)| {
        KeyChangeKind::Put(PutDetails {
            size,
            expires_at,
            content_type,
            metadata,
        })
    });
    prop_oneof![
        put,
        Just(KeyChangeKind::Deleted),
        Just(KeyChangeKind::Expired),
        Just(KeyChangeKind::BucketDropped),
    ]
}

prop_compose! {
    fn any_change()(
        index in any::<u64>(),
        key in any_bytes(),
        (time, region) in any::<(u64, u32)>(),
        kind in any_kind(),
    ) -> KeyChange {
        let version = Version { time, region };
        KeyChange { index, bucket: bucket(), key, version, kind }
    }
}

fn any_filter() -> impl Strategy<Value = Option<KeyFilter>> {
    let prefix = any_bytes().prop_filter("an empty prefix is none", |prefix| !prefix.is_empty());
    prop_oneof![
        Just(None),
        prefix.prop_map(|prefix| Some(KeyFilter::Prefix(prefix))),
        any_bytes().prop_map(|key| Some(KeyFilter::Key(key))),
    ]
}

proptest! {
    #[test]
    fn pages_survive_encoding(
        changes in proptest::collection::vec(any_change(), 0..5),
        up_to in any::<u64>(),
    ) {
        let page: Result<ChangesPage, TooOld> = Ok(ChangesPage { changes, up_to });
        let decoded = ReadChanges::decode(ReadChanges::encode(page.clone()));
        prop_assert_eq!(decoded, Some(page));
    }

    #[test]
    fn queries_survive_encoding(
        after in any::<u64>(),
        up_to in 1..=u64::MAX,
        is_of_bucket in any::<bool>(),
        filter in any_filter(),
        limit in 0..MAX_PAGE_CHANGES,
    ) {
        let id = bucket();
        let sent = ReadChanges {
            range: ChangesRange {
                after,
                up_to,
                bucket: is_of_bucket.then_some(&id),
                filter: filter.as_ref(),
                limit,
            },
            wait: Duration::from_millis(400),
        };
        let call::Body::Changes(call) = sent.to_call(3) else {
            panic!("it is a query for changes");
        };
        let query = ChangesQuery::decode(call).unwrap();
        prop_assert_eq!(query.shard, 3);
        let received = query.operation();
        prop_assert_eq!(received.wait, sent.wait);
        let parts = |range: &ChangesRange<'_>| {
            let filter = range.filter.cloned();
            (range.after, range.up_to, range.bucket.copied(), filter, range.limit)
        };
        prop_assert_eq!(parts(&received.range), parts(&sent.range));
    }
}

#[test]
fn refusals_survive_encoding() {
    let too_old: Result<ChangesPage, TooOld> = Err(TooOld { last_index: 9 });
    let decoded = ReadChanges::decode(ReadChanges::encode(too_old.clone()));
    assert_eq!(decoded, Some(too_old));
}

#[test]
fn what_is_unknown_is_refused() {
    let change = pb::KeyChange {
        bucket: Bytes::copy_from_slice(bucket().as_bytes()),
        ..pb::KeyChange::default()
    };
    let reply = pb::ChangesReply {
        changes: vec![change],
        ..pb::ChangesReply::default()
    };
    assert_eq!(ReadChanges::decode(reply::Body::Changes(reply)), None);
    let query = pb::ChangesQuery {
        bucket: Bytes::from_static(b"no bucket"),
        ..pb::ChangesQuery::default()
    };
    assert!(ChangesQuery::decode(query).is_none());
    let query = pb::ChangesQuery {
        limit: u32::MAX,
        ..pb::ChangesQuery::default()
    };
    let query = ChangesQuery::decode(query).unwrap();
    assert_eq!(query.operation().range.limit, MAX_PAGE_CHANGES);
}
