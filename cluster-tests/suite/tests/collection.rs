//! Replays the Postman collection that defines the API from its own file.
//!
//! Every request must work as it is written there, in the order create, list, modify, keys,
//! delete bucket; every script's assertions must hold, but for three that contradict their own
//! requests; and every recorded example must be answered as it was recorded.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_cluster_tests::postman::{Collection, Environment, Example, Item, Statement};
use cloudkv_cluster_tests::postman::{parse, send};
use cloudkv_test_harness::{ApiClient, HttpResponse, Node, SharedNode};

const COLLECTION: &str = include_str!("../data/cloudkv.postman_collection.json");
const CREATE_BUCKET: &str = "Buckets/Create Bucket";
const FIND_KEYS: &str = "Keys/Find Keys With Prefix";
const VALUE: &str = "the user's value, ";

/// Names of all requests, in the order in which a user would run them.
const ORDER: [&str; 10] = [
    "General/Ping",
    CREATE_BUCKET,
    "Buckets/List Buckets",
    "Buckets/Modify Bucket",
    "Keys/Set Key",
    "Keys/Get Key",
    "Keys/Get Key Header",
    FIND_KEYS,
    "Keys/Delete Key",
    "Buckets/Delete Bucket",
];

/// A script whose body assertion contradicts the requests, and the assertion that replaces it.
struct Contradiction {
    request: &'static str,
    reason: &'static str,
    replacement: fn(&HttpResponse),
}

const CONTRADICTIONS: [Contradiction; 3] = [
    Contradiction {
        request: "Keys/Get Key",
        reason: "Set Key wrote `{{value}}gnaz`; the script expects `{{value}}`",
        replacement: |answer| {
            answer.assert_status(200);
            assert_eq!(
                answer.text(),
                format!("{VALUE}gnaz"),
                "exactly the bytes of Set Key"
            );
            answer.header_date("last-modified");
            answer.header_date("expires");
        },
    },
    Contradiction {
        request: "Keys/Get Key Header",
        reason: "an answer to HEAD has no body; and it asks for test-key, which nobody has set",
        replacement: |answer| {
            answer.assert_status(404).assert_empty();
        },
    },
    Contradiction {
        request: FIND_KEYS,
        reason: "the answer is a list of names; the script expects the value",
        replacement: |answer| {
            assert_eq!(answer.assert_status(200).text(), "test-k7");
        },
    },
];

static NODE: SharedNode = SharedNode::new();

fn collection() -> Collection {
    serde_json::from_str(COLLECTION).expect("the collection is of format 2.0")
}

fn environment(node: &Node) -> Environment {
    let mut environment = Environment::default();
    environment.set("endpoint_url", &format!("http://{}", node.http()));
    environment.set("value", VALUE);
    environment.set("key", "test-k7");
    environment
}

fn script(item: &Item) -> Vec<Statement> {
    let tests = item.events.iter().filter(|event| event.listen == "test");
    let parsed = tests.map(|event| parse(&event.script.exec));
    let parsed: Result<Vec<_>, String> = parsed.collect();
    parsed
        .unwrap_or_else(|line| panic!("{}: unknown statement: {line}", item.name))
        .concat()
}

/// Runs a request's script on its answer.
fn check_script(name: &str, item: &Item, answer: &HttpResponse, environment: &mut Environment) {
    let contradiction = CONTRADICTIONS.iter().find(|known| known.request == name);
    for statement in script(item) {
        let outcome = statement.run(answer, environment);
        match contradiction {
            Some(Contradiction {
                reason,
                replacement,
                ..
            }) if matches!(statement, Statement::BodyEquals(_)) => {
                assert!(
                    outcome.is_err(),
                    "{name}: the script passes, remove the contradiction: {reason}"
                );
                replacement(answer);
            }
            _ => outcome.unwrap_or_else(|failure| panic!("{name}: {failure}")),
        }
    }
    if script(item).is_empty() {
        // Modify and Delete Bucket have no script; their descriptions promise success.
        answer.assert_status(200);
    }
}

async fn replay(collection: &Collection, environment: &mut Environment) {
    for name in ORDER {
        let item = collection.item(name);
        let answer = send(&item.request, environment).await;
        check_script(name, item, &answer, environment);
    }
}

#[test]
fn the_replay_knows_every_request() {
    let collection = collection();
    let mut names: Vec<String> = collection
        .items()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut known = ORDER.map(str::to_owned).to_vec();
    names.sort();
    known.sort();
    assert_eq!(names, known);
}

#[tokio::test]
async fn the_collection_runs_in_order_and_again_with_the_account_it_made() {
    let node = NODE.lease().await;
    let (collection, mut environment) = (collection(), environment(&node));
    assert_eq!(
        environment.get("account_key"),
        None,
        "the first run has no account yet"
    );
    replay(&collection, &mut environment).await;
    let account = environment
        .get("account_key")
        .expect("Create Bucket sets it")
        .to_owned();
    let bucket = environment
        .get("bucket")
        .expect("Create Bucket sets it")
        .to_owned();
    replay(&collection, &mut environment).await;
    assert_eq!(environment.get("account_key"), Some(account.as_str()));
    assert_ne!(environment.get("bucket"), Some(bucket.as_str()));
}

#[tokio::test]
async fn the_modify_request_sets_the_comment_although_its_header_contradicts_its_body() {
    let node = NODE.lease().await;
    let (collection, mut environment) = (collection(), environment(&node));
    for name in [CREATE_BUCKET, "Buckets/Modify Bucket"] {
        let item = collection.item(name);
        let answer = send(&item.request, &environment).await;
        check_script(name, item, &answer, &mut environment);
    }
    let answer = send(
        &collection.item("Buckets/List Buckets").request,
        &environment,
    )
    .await;
    let comment = "This is a comment to describe what's in my bucket";
    assert_eq!(
        answer.assert_status(200).json()["buckets"][0]["comment"],
        comment
    );
}

#[tokio::test]
async fn the_recorded_examples_are_answered_as_recorded() {
    let node = NODE.lease().await;
    let (collection, mut environment) = (collection(), environment(&node));
    let create = collection.item(CREATE_BUCKET);
    check_script(
        CREATE_BUCKET,
        create,
        &send(&create.request, &environment).await,
        &mut environment,
    );
    let mut replayed = 0;
    for name in ORDER {
        for example in &collection.item(name).examples {
            prepare(name, example, &node.api(), &environment).await;
            let answer = send(&example.original_request, &environment).await;
            // The example of Find was saved without its status.
            answer.assert_status(example.code.unwrap_or(200));
            check_recorded_body(name, example, &answer);
            replayed += 1;
        }
    }
    assert_eq!(replayed, 9, "every example of the collection");
}

/// The example of Find lists keys that somebody must have set before.
async fn prepare(name: &str, example: &Example, api: &ApiClient, environment: &Environment) {
    if name == FIND_KEYS {
        let bucket = environment.get("bucket").expect("a bucket");
        for key in example.body.as_deref().expect("recorded keys").lines() {
            api.put(&format!("/kv/{bucket}/{key}"), "a group")
                .await
                .assert_status(200);
        }
    }
}

/// Compares the body with the recorded one, where that doesn't depend on the recorded account.
fn check_recorded_body(name: &str, example: &Example, answer: &HttpResponse) {
    let recorded = example.body.as_deref().unwrap_or_default();
    match name {
        "General/Ping" => {
            assert_eq!(
                answer.json(),
                serde_json::from_str::<serde_json::Value>(recorded).unwrap()
            );
        }
        "Buckets/Create Bucket" => assert_eq!(answer.json()["mode"], "public"),
        "Buckets/List Buckets" => {
            let listed = answer.json()["buckets"].as_array().map(Vec::len);
            assert_eq!(
                listed,
                Some(2),
                "the replay's bucket and the example's: {answer:?}"
            );
        }
        _ => assert_eq!(answer.text(), recorded),
    }
}
