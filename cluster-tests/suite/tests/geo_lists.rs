//! Lists of keys and of buckets, and deletions of empty buckets, over three regions: through a node
//! of each, and through a router by the regions' names.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::batches::{delete, get, lines_of, post, statuses};
use cloudkv_test_harness::prometheus::sum_of_samples;
use cloudkv_test_harness::{
    ApiClient, ApiRequest, Bucket, HttpResponse, RoutedRegions, eventually,
};
use http::Method;
use serde_json::{Value, json};

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Delay between regions, in each direction.
const REGION_DELAY: Duration = Duration::from_millis(60);
/// More pages than any list here has.
const MAX_PAGES: usize = 100;

/// Client of one region: of its node, or of a router by the region's name.
#[derive(Clone, Debug)]
struct RegionClient {
    api: ApiClient,
    host: String,
}

impl RegionClient {
    /// Returns the clients of a region.
    fn of(regions: &RoutedRegions, region: usize) -> [Self; 2] {
        let host = format!("api.{}.cloudkv.io", REGIONS[region]);
        let apis = [regions.cluster.api(region), regions.router.api()];
        apis.map(|api| Self {
            api,
            host: host.clone(),
        })
    }

    /// Returns the clients of all regions.
    fn all(regions: &RoutedRegions) -> Vec<Self> {
        let clients = (0..REGIONS.len()).flat_map(|region| Self::of(regions, region));
        clients.collect()
    }

    fn request(&self, method: Method, path: &str) -> ApiRequest {
        self.api.request(method, path).header("host", &self.host)
    }

    fn get(&self, path: &str) -> ApiRequest {
        self.request(Method::GET, path)
    }

    async fn list(&self, path: &str) -> HttpResponse {
        self.get(path).header("accept", "application/json").await
    }

    async fn delete_bucket(&self, bucket: &Bucket, confirm: u64) -> HttpResponse {
        let path = format!("{}?confirm={confirm}", bucket.path());
        let request = self.request(Method::DELETE, &path);
        request.api_key(&bucket.account).await
    }
}

/// Reads all pages of a list, each through the next client; returns its keys and common prefixes.
async fn follow(clients: &[RegionClient], first: &str) -> (Vec<Value>, Vec<Value>) {
    let (mut keys, mut prefixes) = (vec![], vec![]);
    let mut next = Some(first.to_owned());
    for client in clients.iter().cycle().take(MAX_PAGES) {
        let Some(path) = next else {
            return (keys, prefixes);
        };
        let page = client.list(&path).await;
        next = page.assert_status(200).next_path();
        let body = page.json();
        assert_eq!(body["list_complete"], next.is_none(), "{page:?}");
        keys.extend(body["keys"].as_array().unwrap().iter().cloned());
        prefixes.extend(body["prefixes"].as_array().unwrap().iter().cloned());
    }
    panic!("the list of {first} does not end");
}

/// Returns the names of listed keys.
fn names(keys: &[Value]) -> Vec<&str> {
    let names = keys.iter().map(|key| key["name"].as_str().unwrap());
    names.collect()
}

/// Executes a batch with a session token, and returns the answer's: it covers both.
async fn execute(
    api: &ApiClient,
    bucket: &Bucket,
    operations: &[Value],
    token: Option<&str>,
) -> (Vec<Value>, String) {
    let request = post(api, bucket, operations);
    let answer = match token {
        Some(token) => request.header("x-cloudkv-min-version", token).await,
        None => request.await,
    };
    let outcomes = lines_of(&answer);
    (outcomes, answer.header("x-cloudkv-version").to_owned())
}

/// Reads keys with a session token, once the region isn't behind it; returns their statuses.
async fn read_since(api: &ApiClient, bucket: &Bucket, keys: &[String], token: &str) -> Vec<u64> {
    let gets: Vec<Value> = keys.iter().map(|key| get(key)).collect();
    eventually("the region isn't behind", STATE_TIMEOUT, async || {
        let request = post(api, bucket, &gets);
        let lines = lines_of(&request.header("x-cloudkv-min-version", token).await);
        let outcomes = statuses(&lines);
        let is_behind = outcomes.iter().any(|(_, error)| *error == "behind");
        let found: Vec<u64> = outcomes.iter().map(|(status, _)| *status).collect();
        (!is_behind).then_some(found)
    })
    .await
}

/// Returns the number of changes that a region retains for others.
async fn retained_changes(regions: &RoutedRegions, region: usize) -> f64 {
    let admin = regions.cluster.nodes[region].admin_api();
    let page = admin.get("/metrics").unchecked().await;
    sum_of_samples(page.text(), "cloudkv_geo_held_changes", "")
}

#[tokio::test]
async fn keys_that_have_arrived_are_in_the_lists_of_every_region() {
    let regions = RoutedRegions::start(&REGIONS, 1, 1).await;
    let bucket = regions.cluster.api(0).create_bucket().await;
    regions.cluster.delay_regions(REGION_DELAY);
    let keys: Vec<String> = (0..30)
        .map(|number| format!("dir{}/k{number:02}", number % 4))
        .collect();
    let mut token: Option<String> = None;
    let mut expected: Vec<(String, Value)> = vec![];
    // Each region writes some of them.
    for (region, part) in keys.chunks(10).enumerate() {
        let put = |key: &String| json!({"key": key, "value": key, "metadata": {"region": region}});
        let puts: Vec<Value> = part.iter().map(put).collect();
        let api = regions.cluster.api(region);
        let (outcomes, seen) = execute(&api, &bucket, &puts, token.as_deref()).await;
        for (key, outcome) in part.iter().zip(&outcomes) {
            assert_eq!(outcome["status"], 200, "{outcome}");
            let listed = json!([outcome["version"], key, {"region": region}]);
            expected.push((key.clone(), listed));
        }
        token = Some(seen);
    }
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    let token = token.unwrap();
    for region in 0..3 {
        let api = regions.cluster.api(region);
        let found = read_since(&api, &bucket, &keys, &token).await;
        assert_eq!(found, [200; 30], "{region}");
        let clients = RegionClient::of(&regions, region);
        for (reverse, limit) in [("false", 7), ("true", 7), ("false", 1000)] {
            let query = format!("values=true&reverse={reverse}&limit={limit}");
            let path = format!("{}?{query}", bucket.listing_path());
            let (mut listed, prefixes) = follow(&clients, &path).await;
            if reverse == "true" {
                listed.reverse();
            }
            let fields = |key: &Value| json!([key["version"], key["value"], key["metadata"]]);
            let listed: Vec<(String, Value)> = listed
                .iter()
                .map(|key| (key["name"].as_str().unwrap().to_owned(), fields(key)))
                .collect();
            assert_eq!(listed, expected, "{region} {query}");
            assert!(prefixes.is_empty());
        }
        let path = format!("{}?delimiter=/&limit=3", bucket.listing_path());
        let (listed, prefixes) = follow(&clients, &path).await;
        assert!(listed.is_empty(), "{listed:?}");
        assert_eq!(prefixes, ["dir0/", "dir1/", "dir2/", "dir3/"]);
    }
    regions.cluster.wait_no_retained_changes().await;
}

#[tokio::test]
async fn deleted_keys_are_in_no_list_while_a_region_has_yet_to_acknowledge_it() {
    let regions = RoutedRegions::start(&REGIONS, 1, 1).await;
    let [eu, us, ap] = [0, 1, 2].map(|region| regions.cluster.api(region));
    let bucket = eu.create_bucket().await;
    let kept: Vec<String> = (0..6).map(|number| format!("k{number}5")).collect();
    let deleted: Vec<String> = (0..60)
        .map(|number| format!("k{number:02}"))
        .filter(|key| !kept.contains(key))
        .chain((0..40).map(|number| format!("dir/{number}")))
        .collect();
    let all: Vec<&String> = kept.iter().chain(&deleted).collect();
    let puts: Vec<Value> = all
        .iter()
        .map(|key| json!({"key": key, "value": "v"}))
        .collect();
    execute(&eu, &bucket, &puts, None).await;
    regions.cluster.wait_bucket_converged(&bucket).await;
    let listing = bucket.listing_path();
    let of_us = RegionClient::of(&regions, 1);
    let first = of_us[0]
        .list(&format!("{listing}?prefix=dir/&limit=1"))
        .await;
    let rest = first.assert_status(200).next_path().unwrap();

    regions.cluster.isolate_region(2);
    let deletes: Vec<Value> = deleted.iter().map(|key| delete(key)).collect();
    let (outcomes, token) = execute(&eu, &bucket, &deletes, None).await;
    assert!(outcomes.iter().all(|outcome| outcome["status"] == 200));
    let found = read_since(&us, &bucket, &deleted, &token).await;
    assert!(found.iter().all(|status| *status == 404), "{found:?}");
    assert!(retained_changes(&regions, 0).await > 0.0);

    for clients in [RegionClient::of(&regions, 0), of_us] {
        for query in ["limit=1", "limit=4&reverse=true", "delimiter=/&limit=2"] {
            let (mut keys, prefixes) = follow(&clients, &format!("{listing}?{query}")).await;
            if query.contains("reverse") {
                keys.reverse();
            }
            assert_eq!(names(&keys), kept, "{query}");
            assert!(prefixes.is_empty(), "{query}: {prefixes:?}");
        }
        for client in &clients {
            let none = client.list(&format!("{listing}?prefix=dir/")).await;
            none.assert_error(404, "not_found");
            let none = client.list(&rest).await.assert_status(200).json();
            let empty = json!({"keys": [], "prefixes": [], "list_complete": true});
            assert_eq!(none, empty);
        }
    }
    let elsewhere = ap.get(&listing).header("accept", "application/json").await;
    let elsewhere = elsewhere.assert_status(200).json();
    assert_eq!(elsewhere["keys"].as_array().unwrap().len(), all.len());

    regions.cluster.network.heal();
    let found = read_since(&ap, &bucket, &deleted, &token).await;
    assert!(found.iter().all(|status| *status == 404), "{found:?}");
    let clients = RegionClient::of(&regions, 2);
    for is_acknowledged in [false, true] {
        if is_acknowledged {
            regions.cluster.wait_no_retained_changes().await;
        }
        let (keys, _) = follow(&clients, &format!("{listing}?limit=4")).await;
        assert_eq!(names(&keys), kept, "{is_acknowledged}");
    }
}

/// Returns the IDs of the buckets on a page.
fn bucket_ids(page: &HttpResponse) -> Vec<String> {
    let body = page.assert_status(200).json();
    let listed = body["buckets"].as_array().unwrap().iter();
    listed
        .map(|bucket| bucket["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Deletes a bucket without keys, also while the metadata has no leader.
async fn delete_empty(client: &RegionClient, bucket: &Bucket) {
    eventually("the bucket is deleted", STATE_TIMEOUT, async || {
        let answer = client.delete_bucket(bucket, 0).await;
        match answer.status {
            200 => {}
            // An attempt of unknown outcome has succeeded.
            404 => {
                answer.assert_error(404, "unknown_bucket");
            }
            status => {
                answer.assert_error_in(status, &["unavailable", "unknown_outcome"]);
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_list_of_buckets_goes_on_in_any_region() {
    let regions = RoutedRegions::start(&REGIONS, 1, 1).await;
    regions.cluster.delay_regions(REGION_DELAY);
    let clients = RegionClient::all(&regions);
    let first = regions.cluster.api(0).create_bucket().await;
    let account = &first.account;
    let mut buckets = vec![first.clone()];
    for region in [1, 2, 0, 1, 2, 0, 1] {
        let api = regions.cluster.api(region);
        buckets.push(api.create_bucket_for(account, &[]).await);
    }
    let ids: Vec<String> = buckets.iter().map(|bucket| bucket.id.clone()).collect();
    for start in 0..clients.len() {
        let mut listed = vec![];
        let mut next = Some("/buckets?limit=3".to_owned());
        for client in clients.iter().cycle().skip(start).take(MAX_PAGES) {
            let Some(path) = next.take() else {
                break;
            };
            let page = client.get(&path).api_key(account).await;
            listed.extend(bucket_ids(&page));
            next = page.next_path();
            assert_eq!(page.json()["list_complete"], next.is_none());
        }
        assert_eq!((listed, next), (ids.clone(), None), "{start}");
    }

    // Without one of the regions the list goes on, and skips no bucket that is there.
    regions.cluster.isolate_region(2);
    let [eu, us] = [0, 1].map(|region| RegionClient::of(&regions, region));
    let page = eventually("buckets are listed", STATE_TIMEOUT, async || {
        let page = us[1].get("/buckets?limit=3").api_key(account).await;
        (page.status == 200).then_some(page)
    })
    .await;
    assert_eq!(bucket_ids(&page), ids[..3]);
    for (client, deleted) in us.iter().zip([2, 4]) {
        delete_empty(client, &buckets[deleted]).await;
    }
    let rest = page.next_path().unwrap();
    for client in eu.iter().chain(&us) {
        let page = client.get(&rest).api_key(account).await;
        assert_eq!(bucket_ids(&page), [&ids[3..4], &ids[5..7]].concat());
        assert!(page.next_path().is_some());
    }
}

#[tokio::test]
async fn confirm_0_deletes_no_key_that_has_arrived_in_the_region() {
    let regions = RoutedRegions::start(&REGIONS, 1, 1).await;
    let [eu, us, ap] = [0, 1, 2].map(|region| regions.cluster.api(region));
    let bucket = eu.create_bucket().await;
    let key = ["k".to_owned()];
    for api in [&eu, &us, &ap] {
        assert_eq!(api.bucket_summary(&bucket).await["estimated_keys"], 0);
    }
    let put = json!({"key": "k", "value": "v"});
    let (_, token) = execute(&eu, &bucket, &[put], None).await;
    for (region, api) in [&eu, &us, &ap].into_iter().enumerate() {
        let found = read_since(api, &bucket, &key, &token).await;
        assert_eq!(found, [200]);
        for client in RegionClient::of(&regions, region) {
            let refused = client.delete_bucket(&bucket, 0).await;
            refused.assert_error(409, "confirm_mismatch");
            assert_eq!(refused.json()["keys"], 1, "{region}");
        }
    }

    // A tombstone that isn't acknowledged yet is no key.
    regions.cluster.isolate_region(2);
    let (_, token) = execute(&eu, &bucket, &[delete("k")], Some(&token)).await;
    let found = read_since(&us, &bucket, &key, &token).await;
    assert_eq!(found, [404]);
    assert!(retained_changes(&regions, 0).await > 0.0);
    let [_, routed] = RegionClient::of(&regions, 1);
    delete_empty(&routed, &bucket).await;
    let path = bucket.key_path("k");
    for api in [&eu, &us] {
        let what = "the bucket is unknown";
        eventually(what, STATE_TIMEOUT, async || {
            let get = api.get(&path).await;
            let is_unknown = get.status == 404 && get.error_code() == "unknown_bucket";
            is_unknown.then_some(())
        })
        .await;
    }
    // The region that was cut off had the key still: it vanishes with the bucket.
    assert_eq!(ap.get(&path).await.assert_status(200).text(), "v");
    regions.cluster.network.heal();
    eventually("all regions know it", STATE_TIMEOUT, async || {
        let get = ap.get(&path).await;
        (get.status == 404 && get.error_code() == "unknown_bucket").then_some(())
    })
    .await;
    regions.cluster.wait_no_retained_changes().await;
}
