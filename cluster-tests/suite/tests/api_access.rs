//! Access modes: requests that may read and write a bucket's keys, by the account key they carry.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{ApiClient, ApiRequest, Bucket, SharedNode};
use http::Method;

static NODE: SharedNode = SharedNode::new();

/// Reads of the existing key `k`, and of the list of keys.
const READS: [(Method, &str); 4] = [
    (Method::GET, "k"),
    (Method::HEAD, "k"),
    (Method::GET, ""),
    (Method::HEAD, ""),
];
const WRITES: [(Method, &str); 3] = [
    (Method::PUT, "written"),
    (Method::POST, "written"),
    (Method::DELETE, "written"),
];

/// The account key that a request carries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum AccountKey {
    None,
    Unset,
    Malformed,
    Unknown,
    Others,
    Owners,
}

const ALL_ACCOUNT_KEYS: [AccountKey; 6] = [
    AccountKey::None,
    AccountKey::Unset,
    AccountKey::Malformed,
    AccountKey::Unknown,
    AccountKey::Others,
    AccountKey::Owners,
];

struct Fixture {
    api: ApiClient,
    bucket: Bucket,
    other: String,
}

impl Fixture {
    async fn of(node: &cloudkv_test_harness::Node, access: &str) -> Self {
        let api = node.api();
        let bucket = api.create_bucket_with(&[("access", access)]).await;
        let other = api.create_bucket().await.account;
        api.put(&bucket.key_path("k"), "v")
            .api_key(&bucket.account)
            .await
            .assert_status(200);
        Self { api, bucket, other }
    }

    fn call(&self, method: &Method, name: &str, key: AccountKey) -> ApiRequest {
        let path = match name {
            "" => self.bucket.listing_path(),
            name => self.bucket.key_path(name),
        };
        let call = self.api.request(method.clone(), &path);
        match key {
            AccountKey::None => call,
            AccountKey::Unset => call.api_key("{{account_key}}"),
            AccountKey::Malformed => call.api_key("nonsense"),
            AccountKey::Unknown => call.api_key("11111111-2222-4333-8444-555555555555"),
            AccountKey::Others => call.api_key(&self.other),
            AccountKey::Owners => call.api_key(&self.bucket.account),
        }
    }

    async fn expect_allowed(&self, operations: &[(Method, &str)], keys: &[AccountKey]) {
        for key in keys {
            for (method, name) in operations {
                let answer = self.call(method, name, *key).await;
                assert_eq!(
                    answer.status, 200,
                    "{method} {name:?} with {key:?}: {answer:?}"
                );
            }
        }
    }

    async fn expect_refused(&self, operations: &[(Method, &str)]) {
        for key in ALL_ACCOUNT_KEYS
            .into_iter()
            .filter(|key| *key != AccountKey::Owners)
        {
            let (status, code) = match key {
                AccountKey::Others => (403, "forbidden"),
                _ => (401, "unauthorized"),
            };
            for (method, name) in operations {
                let answer = self.call(method, name, key).await;
                assert_eq!(
                    answer.status, status,
                    "{method} {name:?} with {key:?}: {answer:?}"
                );
                if *method != Method::HEAD {
                    answer.assert_error(status, code);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_public_bucket_is_open_to_all_and_ignores_keys() {
    let node = NODE.lease().await;
    let fixture = Fixture::of(&node, "public").await;
    fixture.expect_allowed(&READS, &ALL_ACCOUNT_KEYS).await;
    fixture.expect_allowed(&WRITES, &ALL_ACCOUNT_KEYS).await;
}

#[tokio::test]
async fn a_public_read_bucket_is_written_by_its_account_only() {
    let node = NODE.lease().await;
    for access in ["public-read", "read-public"] {
        let fixture = Fixture::of(&node, access).await;
        fixture
            .expect_allowed(&READS, &[AccountKey::None, AccountKey::Owners])
            .await;
        fixture.expect_allowed(&WRITES, &[AccountKey::Owners]).await;
        fixture.expect_refused(&WRITES).await;
    }
}

#[tokio::test]
async fn a_protected_bucket_is_open_to_its_account_only() {
    let node = NODE.lease().await;
    let fixture = Fixture::of(&node, "protected").await;
    fixture.expect_allowed(&READS, &[AccountKey::Owners]).await;
    fixture.expect_allowed(&WRITES, &[AccountKey::Owners]).await;
    fixture.expect_refused(&READS).await;
    fixture.expect_refused(&WRITES).await;
}

#[tokio::test]
async fn a_refused_write_changes_nothing() {
    let node = NODE.lease().await;
    for access in ["public-read", "protected"] {
        let fixture = Fixture::of(&node, access).await;
        for key in [AccountKey::None, AccountKey::Others] {
            let put = fixture.call(&Method::PUT, "k", key).body("stolen").await;
            assert!(matches!(put.status, 401 | 403), "{put:?}");
            fixture.call(&Method::DELETE, "k", key).await;
        }
        let get = fixture.call(&Method::GET, "k", AccountKey::Owners).await;
        assert_eq!(get.assert_status(200).text(), "v");
    }
}

#[tokio::test]
async fn a_refused_read_does_not_reveal_whether_the_key_exists() {
    let node = NODE.lease().await;
    let fixture = Fixture::of(&node, "protected").await;
    for key in [AccountKey::None, AccountKey::Others] {
        let existing = fixture.call(&Method::GET, "k", key).await;
        let absent = fixture.call(&Method::GET, "absent", key).await;
        assert_eq!(
            (existing.status, existing.body),
            (absent.status, absent.body)
        );
    }
}
