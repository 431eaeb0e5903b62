//! Who may read and write a bucket's keys, by its access mode.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_cluster_tests::{Api, Bucket, Call, SharedNode};
use http::Method;

static NODE: SharedNode = SharedNode::new();

/// Reads and writes of a key `k` that is there, and of the list.
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

/// Whose key a request carries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Key {
    None,
    Unset,
    Malformed,
    Unknown,
    Others,
    Owners,
}

const ALL_KEYS: [Key; 6] = [
    Key::None,
    Key::Unset,
    Key::Malformed,
    Key::Unknown,
    Key::Others,
    Key::Owners,
];

struct Scene {
    api: Api,
    bucket: Bucket,
    other: String,
}

impl Scene {
    async fn of(node: &cloudkv_cluster_tests::Node, access: &str) -> Self {
        let api = node.api();
        let bucket = api.bucket_with(&[("access", access)]).await;
        let other = api.bucket().await.account;
        api.put(&bucket.key("k"), "v")
            .api_key(&bucket.account)
            .await
            .status(200);
        Self { api, bucket, other }
    }

    fn call(&self, method: &Method, name: &str, key: Key) -> Call {
        let path = match name {
            "" => self.bucket.keys(),
            name => self.bucket.key(name),
        };
        let call = self.api.request(method.clone(), &path);
        match key {
            Key::None => call,
            Key::Unset => call.api_key("{{account_key}}"),
            Key::Malformed => call.api_key("nonsense"),
            Key::Unknown => call.api_key("11111111-2222-4333-8444-555555555555"),
            Key::Others => call.api_key(&self.other),
            Key::Owners => call.api_key(&self.bucket.account),
        }
    }

    async fn expect_allowed(&self, operations: &[(Method, &str)], keys: &[Key]) {
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
        for key in ALL_KEYS.into_iter().filter(|key| *key != Key::Owners) {
            let (status, code) = match key {
                Key::Others => (403, "forbidden"),
                _ => (401, "unauthorized"),
            };
            for (method, name) in operations {
                let answer = self.call(method, name, key).await;
                assert_eq!(
                    answer.status, status,
                    "{method} {name:?} with {key:?}: {answer:?}"
                );
                if *method != Method::HEAD {
                    answer.error(status, code);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_public_bucket_is_open_to_all_and_ignores_keys() {
    let node = NODE.lease().await;
    let scene = Scene::of(&node, "public").await;
    scene.expect_allowed(&READS, &ALL_KEYS).await;
    scene.expect_allowed(&WRITES, &ALL_KEYS).await;
}

#[tokio::test]
async fn a_public_read_bucket_is_written_by_its_account_only() {
    let node = NODE.lease().await;
    for access in ["public-read", "read-public"] {
        let scene = Scene::of(&node, access).await;
        scene
            .expect_allowed(&READS, &[Key::None, Key::Owners])
            .await;
        scene.expect_allowed(&WRITES, &[Key::Owners]).await;
        scene.expect_refused(&WRITES).await;
    }
}

#[tokio::test]
async fn a_protected_bucket_is_open_to_its_account_only() {
    let node = NODE.lease().await;
    let scene = Scene::of(&node, "protected").await;
    scene.expect_allowed(&READS, &[Key::Owners]).await;
    scene.expect_allowed(&WRITES, &[Key::Owners]).await;
    scene.expect_refused(&READS).await;
    scene.expect_refused(&WRITES).await;
}

#[tokio::test]
async fn a_refused_write_changes_nothing() {
    let node = NODE.lease().await;
    for access in ["public-read", "protected"] {
        let scene = Scene::of(&node, access).await;
        for key in [Key::None, Key::Others] {
            let put = scene.call(&Method::PUT, "k", key).body("stolen").await;
            assert!(matches!(put.status, 401 | 403), "{put:?}");
            scene.call(&Method::DELETE, "k", key).await;
        }
        let get = scene.call(&Method::GET, "k", Key::Owners).await;
        assert_eq!(get.status(200).text(), "v");
    }
}

#[tokio::test]
async fn what_a_stranger_may_not_read_does_not_tell_whether_it_is_there() {
    let node = NODE.lease().await;
    let scene = Scene::of(&node, "protected").await;
    for key in [Key::None, Key::Others] {
        let there = scene.call(&Method::GET, "k", key).await;
        let absent = scene.call(&Method::GET, "absent", key).await;
        assert_eq!((there.status, there.body), (absent.status, absent.body));
    }
}
