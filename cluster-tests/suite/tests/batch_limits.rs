//! Large batches, bounds of batches, and batches while a node crashes or is cut off.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::batches::{
    LINES, OK, delete, execute, get, lines_of, post, put, statuses,
};
use cloudkv_test_harness::region::{Region, RegionOptions};
use cloudkv_test_harness::{ApiClient, PublicEndpoint, RawRequest, RoutedRegion, eventually};
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of operations of a batch.
const MAX_OPERATIONS: usize = 1000;
/// Maximum size of a batch, in bytes.
const MAX_BATCH_BYTES: usize = 8 << 20;

#[tokio::test]
async fn batches_of_1000_operations_are_executed() {
    let region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let value = "v".repeat(4096);
    for (writer, reader) in region.client_pairs() {
        let name = |number: usize| format!("key-{number:04}");
        let puts: Vec<Value> = (0..MAX_OPERATIONS)
            .map(|number| put(&name(number), &format!("{number}{}", &value[4..])))
            .collect();
        let outcomes = execute(&writer, &bucket, &puts).await;
        assert!(statuses(&outcomes).iter().all(|status| *status == OK));
        let gets: Vec<Value> = (0..MAX_OPERATIONS)
            .map(|number| get(&name(number)))
            .collect();
        let read = execute(&reader, &bucket, &gets).await;
        for ((put, written), read) in puts.iter().zip(&outcomes).zip(&read) {
            assert_eq!(
                (&put["value"], &written["version"]),
                (&read["value"], &read["version"])
            );
        }
        let mut more = puts.clone();
        more.push(get("k"));
        let refused = post(&writer, &bucket, &more).await;
        refused.assert_error(413, "batch_too_large");
        assert_eq!(reader.list(&bucket).await.len(), MAX_OPERATIONS);
        let deletes: Vec<Value> = (0..MAX_OPERATIONS)
            .map(|number| delete(&name(number)))
            .collect();
        let outcomes = execute(&writer, &bucket, &deletes).await;
        assert!(statuses(&outcomes).iter().all(|status| *status == OK));
        let list = reader.get(&bucket.listing_path()).await;
        list.assert_error(404, "not_found");
    }
}

#[tokio::test]
async fn batches_and_their_answers_are_bounded() {
    let endpoint = PublicEndpoint::with_router(&[]).await;
    let bucket = endpoint.large_bucket().await;
    for address in [endpoint.http(), endpoint.node.http()] {
        let request = RawRequest::new("POST", &bucket.listing_path())
            .header("Content-Type", LINES)
            .header("Content-Length", &(MAX_BATCH_BYTES + 1).to_string());
        let answer = request.send(address).await;
        answer.assert_error(413, "batch_too_large");
    }
    let api = ApiClient::new(endpoint.http());
    let value = "v".repeat(1 << 20);
    let name = |number: usize| format!("k{number}");
    for first in [0, 6] {
        let puts: Vec<Value> = (first..first + 6)
            .map(|it| put(&name(it), &value))
            .collect();
        let outcomes = execute(&api, &bucket, &puts).await;
        assert_eq!(statuses(&outcomes), [OK; 6]);
    }
    let gets: Vec<Value> = (0..12).map(|number| get(&name(number))).collect();
    let outcomes = execute(&api, &bucket, &gets).await;
    let (values, refused): (Vec<&Value>, Vec<&Value>) = outcomes
        .iter()
        .partition(|outcome| outcome["status"] == 200);
    // Keys and the rest of the lines count, too.
    assert_eq!((values.len(), refused.len()), (7, 5));
    for outcome in refused {
        assert_eq!(outcome["status"], 413);
        assert_eq!(outcome["error"], "response_too_large");
    }
    assert!(
        values
            .iter()
            .all(|outcome| outcome["value"] == value.as_str())
    );
}

/// The earlier operation may still take effect, and must not do so after a later one.
#[tokio::test]
async fn operations_on_a_key_end_with_one_of_unknown_outcome() {
    let options = RegionOptions {
        args: ["--request-timeout", "3s"].map(str::to_owned).to_vec(),
        ..RegionOptions::default()
    };
    let region = Region::start_with(options).await;
    region.wait_leaders_balanced().await;
    let bucket = region.api(0).create_bucket().await;
    // In each shard some: this node leads some of the shards, and forwards the writes of others.
    let keys: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    let old: Vec<Value> = keys.iter().map(|key| put(key, "old")).collect();
    let outcomes = execute(&region.api(0), &bucket, &old).await;
    assert_eq!(statuses(&outcomes), [OK; 40]);
    region.network.isolate(0);
    let of_key = |key: &String| [put(key, "first"), get(key), put(key, "second")];
    let operations: Vec<Value> = keys.iter().flat_map(of_key).collect();
    let outcomes = execute(&region.api(0), &bucket, &operations).await;
    let mut unknown = Vec::new();
    for (key, outcomes) in keys.iter().zip(outcomes.chunks(3)) {
        let statuses = statuses(outcomes);
        let (first, later) = statuses.split_first().unwrap();
        if *first != (504, "unknown_outcome") {
            assert_eq!(first.0, 503, "{outcomes:?}");
            continue;
        }
        unknown.push(key);
        assert_eq!(later, [(503, "unavailable"); 2], "{outcomes:?}");
        for outcome in &outcomes[1..] {
            let message = outcome["message"].as_str().unwrap();
            assert!(message.contains("unknown outcome"), "{message}");
        }
    }
    assert!(!unknown.is_empty(), "{outcomes:?}");
    region.network.heal();
    region.wait_formed().await;
    let gets: Vec<Value> = unknown.iter().map(|key| get(key)).collect();
    for outcome in execute(&region.api(1), &bucket, &gets).await {
        let value = outcome["value"].as_str();
        assert!([Some("old"), Some("first")].contains(&value), "{outcome}");
    }
}

#[tokio::test]
async fn no_acknowledged_write_of_a_batch_is_lost_with_a_node() {
    let mut region = RoutedRegion::start().await;
    let api = region.router.api();
    let bucket = api.create_bucket().await;
    let keys: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    // Of each key the values that it may have: the last acknowledged one, and later ones whose
    // outcome is unknown.
    let mut possible = vec![vec![Value::Null]; keys.len()];
    let mut acknowledged = 0;
    for round in 0..60 {
        match round {
            20 => region.region.kill(0),
            40 => region.region.restart(0).await,
            _ => {}
        }
        let value = format!("round {round}");
        let puts: Vec<Value> = keys.iter().map(|key| put(key, &value)).collect();
        let Ok(answer) = post(&api, &bucket, &puts).try_send().await else {
            possible.iter_mut().for_each(|it| it.push(json!(value)));
            continue;
        };
        match answer.status {
            200 => {}
            503 => continue,
            _ => {
                answer.assert_error(504, "unknown_outcome");
                possible.iter_mut().for_each(|it| it.push(json!(value)));
                continue;
            }
        }
        for (outcome, possible) in statuses(&lines_of(&answer)).into_iter().zip(&mut possible) {
            match outcome {
                (200, _) => {
                    *possible = vec![json!(value)];
                    acknowledged += 1;
                }
                (503, _) => {}
                (504, "unknown_outcome") => possible.push(json!(value)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(
        acknowledged > 20 * keys.len(),
        "{acknowledged} of {}",
        60 * keys.len()
    );
    let gets: Vec<Value> = keys.iter().map(|key| get(key)).collect();
    let read = eventually("all keys are read", STATE_TIMEOUT, async || {
        let outcomes = execute(&api, &bucket, &gets).await;
        let is_answered = |outcome: &Value| outcome["status"] == 200 || outcome["status"] == 404;
        outcomes.iter().all(is_answered).then_some(outcomes)
    })
    .await;
    for (outcome, possible) in read.iter().zip(&possible) {
        assert!(
            possible.contains(&outcome["value"]),
            "{outcome}: {possible:?}"
        );
    }
}
