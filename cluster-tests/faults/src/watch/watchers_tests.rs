//! The checks of watchers find servers that lose events, tell them in the wrong order, or tell the
//! wrong ones, and nothing in a correct one.

use std::time::Duration;

use super::fake_bucket::{DEFECTIVE_KEY, FakeBucket, WatchDefect};
use super::watchers::Watchers;
use cloudkv_test_harness::ApiClient;
use cloudkv_test_harness::watch::WatchOptions;

/// Longer than a correct server needs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Time after which what a defective server hasn't told counts as lost.
const DEFECT_TIMEOUT: Duration = Duration::from_millis(300);

/// Returns what the checks say of a watcher of a server.
async fn check(defect: WatchDefect, is_initial: bool, limit: Duration) -> Vec<String> {
    let (address, bucket) = FakeBucket::serve(defect).await;
    let api = ApiClient::new(address);
    let put = async |key: &str, value: &str| {
        let path = bucket.key_path(key);
        api.put(&path, value.to_owned()).await.assert_status(200);
    };
    put("a", "before").await;
    let mut watchers = Watchers::default();
    let options = WatchOptions {
        is_initial,
        has_values: true,
        ..WatchOptions::new(&[address], &bucket)
    };
    watchers.start("all".to_owned(), "last", options);
    watchers.wait_started(TIMEOUT).await;
    for value in ["1", "2"] {
        put("a", value).await;
        put(DEFECTIVE_KEY, value).await;
    }
    if defect == WatchDefect::LostDeletes {
        let path = bucket.key_path(DEFECTIVE_KEY);
        api.delete(&path).await.assert_status(200);
    }
    watchers.check(&api, limit).await
}

#[tokio::test]
async fn a_correct_server_passes() {
    for is_initial in [true, false] {
        let failures = check(WatchDefect::Healthy, is_initial, TIMEOUT).await;
        assert_eq!(failures, Vec::<String>::new());
    }
}

#[tokio::test]
async fn defective_servers_are_found() {
    for (defect, expected) in [
        (WatchDefect::LostPuts, "1 keys differ"),
        (WatchDefect::LostDeletes, "1 keys differ"),
        (WatchDefect::Swapped, "out of order"),
        (WatchDefect::OldValues, "1 keys differ"),
        (WatchDefect::Silent, "condition not met"),
    ] {
        for is_initial in [true, false] {
            let failures = check(defect, is_initial, DEFECT_TIMEOUT).await;
            let is_found = failures.iter().any(|failure| failure.contains(expected));
            assert!(is_found, "{defect:?}: {failures:?}");
        }
    }
}
