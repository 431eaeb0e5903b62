//! Expiry at a time, by PATCH, and by a bucket's default: in a region of three nodes, through nodes
//! and a router, and over regions.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{ApiClient, Bucket, RoutedRegion, eventually};
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum difference between clocks.
const CLOCK_BOUND: Duration = Duration::from_millis(250);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Returns the whole seconds of a time since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns the time at which this second began.
fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(time))
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Returns the listed time at which a key expires.
async fn expires_at(api: &ApiClient, bucket: &Bucket, name: &str) -> Option<SystemTime> {
    let time = api.listed_key(bucket, name).await["expires_at"].clone();
    time.as_str()
        .map(|text| humantime::parse_rfc3339(text).unwrap())
}

/// Expiry that a write must have led to.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Never,
    At(SystemTime),
    After(Duration),
}

/// Asserts when a key expires, which was written after `written_after`.
async fn assert_expiry(
    api: &ApiClient,
    bucket: &Bucket,
    name: &str,
    written_after: SystemTime,
    expected: Expected,
) {
    let listed = expires_at(api, bucket, name).await;
    let is_expected = match (expected, listed) {
        (Expected::Never, None) => true,
        (Expected::At(time), Some(listed)) => listed == time,
        (Expected::After(ttl), Some(listed)) => {
            let earliest = written_after + ttl - CLOCK_BOUND;
            let latest = SystemTime::now() + ttl + CLOCK_BOUND;
            (earliest..=latest).contains(&listed)
        }
        _ => false,
    };
    assert!(is_expected, "{name}: {listed:?} instead of {expected:?}");
    let get = api.get(&bucket.key_path(name)).await;
    let header = get.assert_status(200).find_header("expires");
    // The header has no fractions of a second.
    let header = header.map(|text| httpdate::parse_http_date(text).unwrap());
    assert_eq!(header, listed.map(whole_seconds), "{get:?}");
}

#[tokio::test]
async fn a_time_of_expiry_is_kept_exactly_in_every_form() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let start = SystemTime::now();
    let time = whole_seconds(start) + HOUR;
    let fraction = time + Duration::from_millis(250);
    let east = rfc3339(time + 2 * HOUR).replace('Z', "+02:00");
    let west = rfc3339(time - 5 * HOUR - 30 * MINUTE).replace('Z', "-05:30");
    let forms = [
        (seconds(time).to_string(), time),
        (rfc3339(time), time),
        (rfc3339(time).to_lowercase(), time),
        (east, time),
        (west, time),
        (
            humantime::format_rfc3339_millis(fraction).to_string(),
            fraction,
        ),
    ];
    for (text, time) in forms {
        for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
            let name = format!("k{index}");
            let path = bucket.key_path(&name);
            let put = writer.put(&path, "v");
            let put = put.query(&[("expires_at", text.as_str())]).await;
            let expires = put.assert_status(200).header_date("expires");
            assert_eq!(expires, whole_seconds(time), "{text}");
            assert_expiry(reader, &bucket, &name, start, Expected::At(time)).await;
        }
    }
}

#[tokio::test]
async fn a_wrong_expiry_is_refused_and_nothing_is_written() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let future = format!("expires_at={}", seconds(SystemTime::now() + HOUR));
    let both = [
        format!("ttl=5s&{future}"),
        format!("{future}&persist=true"),
        "ttl=5s&persist=true".to_owned(),
    ];
    let mut queries = vec![
        "ttl=0",
        "persist=",
        "persist=false",
        "expires_at=",
        "expires_at=soon",
        "expires_at=-5",
        "expires_at=1.5",
        // Times that have passed.
        "expires_at=1",
        "expires_at=1600000000",
        "expires_at=2020-01-01T00:00:00Z",
        "expires_at=1960-01-01T00:00:00Z",
        // More than a hundred years away.
        "expires_at=9999-12-31T23:59:59Z",
        "expires_at=99999999999999999999",
        "expires_at=2090-01-01",
        "expires_at=2090-01-01T00:00:00",
        "expires_at=2090-13-01T00:00:00Z",
        "expires_at=2090-02-30T00:00:00Z",
        // A plus that isn't encoded is a space.
        "expires_at=2090-01-01T00:00:00+02:00",
    ];
    queries.extend(both.iter().map(String::as_str));
    for (index, api) in clients.iter().enumerate() {
        let path = bucket.key_path(&format!("k{index}"));
        let etag = api.put(&path, "kept").await.assert_status(200).etag();
        for query in &queries {
            let path = format!("{path}?{query}");
            for call in [api.put(&path, "never"), api.patch(&path)] {
                let answer = call.await;
                assert_eq!(answer.status, 400, "{query}: {answer:?}");
                answer.assert_error(400, "invalid_ttl");
            }
        }
        let get = api.get(&path).await;
        assert_eq!((get.text(), get.etag()), ("kept", etag));
        assert_eq!(get.find_header("expires"), None);
    }
}

#[tokio::test]
async fn a_patch_changes_the_expiry_and_keeps_the_rest() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let start = SystemTime::now();
    let time = whole_seconds(start) + HOUR;
    let at = format!("expires_at={}", seconds(time));
    let changes = [
        ("ttl=2h", Expected::After(2 * HOUR)),
        (at.as_str(), Expected::At(time)),
        ("persist=true", Expected::Never),
        ("ttl=1h30m", Expected::After(90 * MINUTE)),
    ];
    for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
        let name = format!("k{index}");
        let path = bucket.key_path(&name);
        let put = writer.put(&path, "value").header("content-type", "text/x");
        let put = put.header("x-cloudkv-metadata", r#"{"a":1}"#).await;
        let mut etag = put.assert_status(200).etag();
        for (query, expected) in changes {
            let patch = writer.patch(&format!("{path}?{query}")).await;
            let changed = patch.assert_status(200).assert_empty().etag();
            assert_ne!(changed, etag, "a new version");
            etag = changed;
            let get = reader.get(&path).await;
            assert_eq!((get.text(), get.etag()), ("value", etag.clone()));
            assert_eq!(get.header("content-type"), "text/x");
            assert_eq!(get.header("x-cloudkv-metadata"), r#"{"a":1}"#);
            assert_eq!(get.find_header("expires"), patch.find_header("expires"));
            assert_expiry(reader, &bucket, &name, start, expected).await;
        }
        // Both at once.
        let both = writer.patch(&format!("{path}?persist=true"));
        let both = both.header("x-cloudkv-metadata", "{}").await;
        both.assert_status(200);
        let get = reader.get(&path).await;
        assert_eq!(get.find_header("x-cloudkv-metadata"), None);
        assert_expiry(reader, &bucket, &name, start, Expected::Never).await;
    }
}

#[tokio::test]
async fn a_default_ttl_is_for_writes_that_name_no_expiry() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0]
        .create_bucket_with(&[("default_ttl", "1h")])
        .await;
    let start = SystemTime::now();
    let time = whole_seconds(start) + 3 * HOUR;
    let at = format!("?expires_at={}", seconds(time));
    let writes = [
        ("", Expected::After(HOUR)),
        ("?ttl=2h", Expected::After(2 * HOUR)),
        (at.as_str(), Expected::At(time)),
        ("?persist=true", Expected::Never),
    ];
    for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
        let summary = reader.bucket_summary(&bucket).await;
        assert_eq!(summary["default_ttl"], 3600);
        let name = format!("k{index}");
        let path = bucket.key_path(&name);
        for (query, expected) in writes {
            let put = writer.put(&format!("{path}{query}"), "v").await;
            let expires = put.assert_status(200).find_header("expires").is_some();
            assert_eq!(expires, !matches!(expected, Expected::Never), "{put:?}");
            assert_expiry(reader, &bucket, &name, start, expected).await;
        }
        let zero = writer.put(&format!("{path}?ttl=0"), "never").await;
        zero.assert_error(400, "invalid_ttl");
        // A PATCH that names no expiry keeps the key's.
        let patch = writer.patch(&path).header("x-cloudkv-metadata", "{}");
        patch.await.assert_status(200);
        assert_expiry(reader, &bucket, &name, start, Expected::Never).await;
    }
}

#[tokio::test]
async fn a_default_ttl_is_changed_and_removed_in_every_form() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket_with(&[("comment", "stays")]).await;
    let start = SystemTime::now();
    let api = &clients[1];
    let patch = || api.patch(&bucket.path()).api_key(&bucket.account);
    let summary = api.bucket_summary(&bucket).await;
    assert_eq!(summary["default_ttl"], Value::Null);
    let calls = [
        (patch().query(&[("default_ttl", "90")]), json!(90)),
        (patch().urlencoded("default_ttl=1h30m"), json!(5400)),
        (patch().urlencoded("default_ttl="), Value::Null),
        (patch().json(&json!({"default_ttl": "7d"})), json!(604_800)),
        (patch().json(&json!({"default_ttl": null})), Value::Null),
        (patch().json(&json!({"default_ttl": 7200})), json!(7200)),
        (
            patch().json(&json!({"comment": null, "plan": null})),
            json!(7200),
        ),
        (patch().multipart(&[("default_ttl", "")]), Value::Null),
        (patch().multipart(&[("default_ttl", "1h")]), json!(3600)),
    ];
    for (call, expected) in calls {
        call.await.assert_status(200).assert_empty();
        for api in &clients {
            let summary = api.bucket_summary(&bucket).await;
            assert_eq!(summary["default_ttl"], expected);
            assert_eq!(summary["comment"], "stays");
            // It holds at all nodes at once.
            let path = bucket.key_path("k");
            api.put(&path, "v").await.assert_status(200);
            let after = |seconds| Expected::After(Duration::from_secs(seconds));
            let expected = expected.as_u64().map_or(Expected::Never, after);
            assert_expiry(api, &bucket, "k", start, expected).await;
        }
    }
    for wrong in ["0", "soon", "-1", "5x", "99999d"] {
        let query = [("default_ttl", wrong)];
        let answer = patch().query(&query).await;
        answer.assert_error(400, "invalid_ttl");
        let create = api.post("/buckets").query(&query).await;
        create.assert_error(400, "invalid_ttl");
    }
    for (wrong, code) in [
        (json!(0), "invalid_ttl"),
        (json!(-1), "invalid_ttl"),
        (json!(1.5), "invalid_parameter"),
        (json!(true), "invalid_parameter"),
        (json!([60]), "invalid_parameter"),
    ] {
        let answer = patch().json(&json!({"default_ttl": wrong})).await;
        answer.assert_error(400, code);
    }
    let summary = api.bucket_summary(&bucket).await;
    assert_eq!(summary["default_ttl"], 3600);
    let empty = api.create_bucket_with(&[("default_ttl", "")]).await;
    let summary = api.bucket_summary(&empty).await;
    assert_eq!(summary["default_ttl"], Value::Null);
}

#[tokio::test]
async fn expiries_that_are_changed_in_one_region_hold_in_the_others() {
    let world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    let start = SystemTime::now();
    let change = world.api(0).patch(&bucket.path()).api_key(&bucket.account);
    let change = change.urlencoded("default_ttl=1h").await;
    change.assert_status(200);
    let summary = world.api(1).bucket_summary(&bucket).await;
    assert_eq!(summary["default_ttl"], 3600);
    let put = world.api(1).put(&bucket.key_path("k"), "value").await;
    let token = put.assert_status(200).header("x-cloudkv-version");
    assert_expiry(&world.api(1), &bucket, "k", start, Expected::After(HOUR)).await;
    let path = bucket.key_path("k");
    eventually("the key has arrived", STATE_TIMEOUT, async || {
        let get = world.api(2).get(&path);
        let get = get.header("x-cloudkv-min-version", token).await;
        (get.status == 200).then_some(())
    })
    .await;
    let patch = world.api(2).patch(&format!("{path}?persist=true"));
    let patch = patch.header("x-cloudkv-min-version", token).await;
    let token = patch.assert_status(200).header("x-cloudkv-version");
    for seat in 0..3 {
        eventually("the change has arrived", STATE_TIMEOUT, async || {
            let get = world.api(seat).get(&path);
            let get = get.header("x-cloudkv-min-version", token).await;
            if get.status == 503 {
                get.assert_error(503, "behind");
                return None;
            }
            assert_eq!((get.text(), get.etag()), ("value", patch.etag()));
            Some(())
        })
        .await;
        assert_expiry(&world.api(seat), &bucket, "k", start, Expected::Never).await;
    }
    // Between regions a PATCH is a write like any other: the later one wins, with its value.
    world.isolate_region(2);
    world.api(0).put(&path, "newer").await.assert_status(200);
    let patch = world.api(2).patch(&format!("{path}?ttl=2h")).await;
    let etag = patch.assert_status(200).etag();
    world.network.heal();
    world.wait_bucket_converged(&bucket).await;
    for seat in 0..3 {
        let get = world.api(seat).get(&path).await;
        assert_eq!((get.text(), get.etag()), ("value", etag.clone()));
        let expected = Expected::After(2 * HOUR);
        assert_expiry(&world.api(seat), &bucket, "k", start, expected).await;
    }
    world.wait_no_retained_changes().await;
}
