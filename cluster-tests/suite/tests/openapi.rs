//! The API's description, a document of OpenAPI and a page, against what node and router answer and
//! what `docs/api.md` says.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cloudkv_test_harness::{ApiClient, Bucket, Node, Router, eventually};
use http::Method;
use serde_json::Value;

/// Bounds of the run of schemathesis in `make test`; `CLOUDKV_SCHEMATHESIS_ARGS` replaces them.
const SCHEMATHESIS_ARGS: &str = "--max-examples 20 --generation-deterministic";

/// Time for a new cluster to reach the level that PATCH of a key needs.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(30);

/// A node, and a router in front of it.
struct Cluster {
    router: Router,
    node: Node,
}

impl Cluster {
    async fn start() -> Self {
        let node = Node::start().await;
        let router = Router::start(&[node.rpc()]).await;
        Self { router, node }
    }

    fn clients(&self) -> [ApiClient; 2] {
        [self.node.api(), self.router.api()]
    }
}

async fn document_of(api: &ApiClient) -> Value {
    let answer = api.get("/openapi.json").await;
    answer.assert_status(200).json()
}

fn repository() -> PathBuf {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR"));
    suite.ancestors().nth(2).unwrap().to_owned()
}

fn api_docs() -> String {
    std::fs::read_to_string(repository().join("docs/api.md")).unwrap()
}

/// Returns all operations, with their paths and methods.
fn operations(document: &Value) -> Vec<(&str, String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        let of_method = item.as_object().unwrap().iter();
        of_method.map(|(method, operation)| (path.as_str(), method.to_uppercase(), operation))
    });
    operations.collect()
}

/// Returns the component that a value refers to, or the value itself.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap(),
        None => value,
    }
}

/// Returns the query parameters of an operation.
fn query_parameters(document: &Value, operation: &Value) -> BTreeSet<String> {
    let parameters = operation["parameters"].as_array().unwrap().iter();
    parameters
        .map(|parameter| resolve(document, parameter))
        .filter(|parameter| parameter["in"] == "query")
        .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Fills the parameters of a path.
fn filled(path: &str, bucket: &Bucket) -> String {
    path.replace("{bucket}", &bucket.id).replace("{key}", "k")
}

/// Returns the words in backticks.
fn quoted_words(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[tokio::test]
async fn node_and_router_serve_the_document() {
    let cluster = Cluster::start().await;
    for api in cluster.clients() {
        let answer = api.get("/openapi.json").await;
        let content_type = answer.assert_status(200).header("content-type");
        assert_eq!(content_type, "application/json; charset=utf-8");
        assert_eq!(answer.header("cache-control"), "no-cache");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        let document = answer.json();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));

        let request = api.get("/openapi.json");
        let unchanged = request.header("if-none-match", &answer.etag()).await;
        unchanged.assert_status(304).assert_empty();
        assert_eq!(unchanged.etag(), answer.etag());
        let head = api.head("/openapi.json").await;
        head.assert_status(200).assert_empty();
        assert_eq!(head.header("content-length"), answer.body.len().to_string());
    }
}

#[tokio::test]
async fn node_and_router_serve_a_page_that_loads_nothing() {
    let cluster = Cluster::start().await;
    for api in cluster.clients() {
        let answer = api.get("/docs").await;
        let content_type = answer.assert_status(200).header("content-type");
        assert_eq!(content_type, "text/html; charset=utf-8");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        let page = answer.text();
        for part in ["src=", "<script", "<link", "@import", "url(", "style="] {
            assert!(!page.contains(part), "{part}");
        }
        for (path, _, operation) in operations(&document_of(&api).await) {
            assert!(page.contains(path), "{path}");
            let is_shown = operation["summary"] != "Ask for the methods";
            let summary = operation["summary"].as_str().unwrap();
            assert_eq!(page.contains(summary), is_shown, "{summary}");
        }
        let request = api.get("/docs").header("if-none-match", &answer.etag());
        request.await.assert_status(304).assert_empty();
        api.head("/docs").await.assert_status(200).assert_empty();
    }
}

#[tokio::test]
async fn every_path_has_the_methods_that_are_described_and_no_others() {
    let cluster = Cluster::start().await;
    for api in cluster.clients() {
        let document = document_of(&api).await;
        let bucket = api.create_bucket().await;
        for (path, item) in document["paths"].as_object().unwrap() {
            let described = item.as_object().unwrap().keys();
            let described: BTreeSet<String> = described.map(|name| name.to_uppercase()).collect();
            for method in [
                "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE",
            ] {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                let request = api.request(method.clone(), &filled(path, &bucket));
                let answer = request.api_key(&bucket.account).await;
                let is_served = answer.status != 405;
                let is_described = described.contains(method.as_str());
                assert_eq!(is_served, is_described, "{method} {path}: {answer:?}");
                if !is_served || method == Method::OPTIONS {
                    let allowed = answer.header("allow").split(", ");
                    let allowed: BTreeSet<String> = allowed.map(str::to_owned).collect();
                    assert_eq!(allowed, described, "{path}");
                }
            }
        }
    }
}

#[tokio::test]
async fn writes_know_the_parameters_that_are_described_and_no_others() {
    let cluster = Cluster::start().await;
    let api = cluster.node.api();
    let document = document_of(&api).await;
    let bucket = api.create_bucket().await;
    let mut seen = 0;
    for (path, method, operation) in operations(&document) {
        if !matches!(method.as_str(), "PUT" | "POST" | "PATCH" | "DELETE") {
            continue;
        }
        let target = filled(path, &bucket) + "?colour=red";
        let request = api.request(method.parse().unwrap(), &target);
        let answer = request.api_key(&bucket.account).await;
        answer.assert_error(400, "invalid_parameter");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        let known: BTreeSet<String> = match message.split_once("there is ") {
            Some((_, known)) => known.split(", ").map(str::to_owned).collect(),
            None => BTreeSet::new(),
        };
        let mut described = query_parameters(&document, operation);
        if (path, method.as_str()) == ("/buckets/{bucket}", "PATCH") {
            // It is known to be refused: the access mode can't be changed.
            described.insert("access".to_owned());
        }
        assert_eq!(known, described, "{method} {path}: {message}");
        seen += 1;
    }
    assert!(seen >= 8, "{seen} writes");
}

/// Returns whether a parameter counts only for the event stream that a GET may ask for.
fn is_of_watch(path: &str, name: &str) -> bool {
    matches!(name, "initial" | "since") || (path, name) == ("/kv/{bucket}/{key}", "values")
}

#[tokio::test]
async fn reads_know_the_parameters_that_are_described() {
    let cluster = Cluster::start().await;
    let api = cluster.node.api();
    let document = document_of(&api).await;
    let bucket = api.create_bucket().await;
    for (path, method, operation) in operations(&document) {
        if method != "GET" {
            continue;
        }
        for name in query_parameters(&document, operation) {
            let target = format!("{}?{name}=1&{name}=1", filled(path, &bucket));
            let mut request = api.get(&target).api_key(&bucket.account);
            if is_of_watch(path, &name) {
                request = request.header("accept", "text/event-stream");
            }
            let answer = request.await;
            answer.assert_error(400, "invalid_parameter");
            let message = answer.json()["message"].to_string();
            assert!(
                message.contains(&format!("parameter {name} must be given once")),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn the_docs_have_the_calls_and_their_parameters() {
    let node = Node::start().await;
    let document = document_of(&node.api()).await;
    let docs = api_docs();
    let mut listed = BTreeSet::new();
    for row in docs.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, call, _, parameters, _, ""] = cells[..] else {
            continue;
        };
        let words = quoted_words(call);
        let Some((_, path)) = words.last().and_then(|word| word.split_once(' ')) else {
            continue;
        };
        for word in &words {
            let method = word.split(' ').next().unwrap();
            let operation = &document["paths"][path][method.to_lowercase()];
            assert!(operation.is_object(), "{method} {path}");
            let described = query_parameters(&document, operation);
            let documented: BTreeSet<String> = quoted_words(parameters)
                .into_iter()
                .map(str::to_owned)
                .collect();
            assert_eq!(described, documented, "{method} {path}");
            listed.insert((method.to_owned(), path.to_owned()));
        }
    }
    for (path, method, _) in operations(&document) {
        let is_listed = listed.contains(&(method.clone(), path.to_owned()));
        assert_eq!(is_listed, method != "OPTIONS", "{method} {path}");
    }
}

#[tokio::test]
async fn the_docs_have_the_codes_of_errors() {
    let node = Node::start().await;
    let document = document_of(&node.api()).await;
    // One is in lines of batches.
    let mut described = BTreeSet::from([("413".to_owned(), "response_too_large".to_owned())]);
    for (_, _, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = resolve(&document, response);
            let schema = &response["content"]["application/json"]["schema"];
            let codes = schema["allOf"][1]["properties"]["error"]["enum"].as_array();
            for code in codes.into_iter().flatten() {
                described.insert((status.clone(), code.as_str().unwrap().to_owned()));
            }
        }
    }
    let docs = api_docs();
    let (_, section) = docs.split_once("\n## Errors\n").unwrap();
    let mut documented = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if cells[1].parse::<u16>().is_ok() {
            let codes = quoted_words(cells[2]).into_iter();
            documented.extend(codes.map(|code| (cells[1].to_owned(), code.to_owned())));
        }
    }
    assert_eq!(described, documented);
}

#[tokio::test]
async fn schemathesis_finds_nothing() {
    let Some(program) = find_schemathesis() else {
        eprintln!("skipped: schemathesis (not installed: scripts/setup test installs it)");
        return;
    };
    let node = Node::start().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let spare = api.create_bucket_for(&bucket.account, &[]).await;
    api.put_numbered(&bucket, "k", 20, "v").await;
    eventually("the cluster is at its level", LEVEL_TIMEOUT, async || {
        let patch = api.patch(&bucket.key_path("k0?ttl=1d")).await;
        (patch.status == 200).then_some(())
    })
    .await;

    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/schemathesis");
    let dir = tempfile::tempdir().unwrap();
    let args = env::var("CLOUDKV_SCHEMATHESIS_ARGS").unwrap_or(SCHEMATHESIS_ARGS.to_owned());
    let output = Command::new(program)
        .arg("--config-file")
        .arg(data.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{}/openapi.json", node.http()))
        .args(["--checks", "all", "--continue-on-failure", "--no-color"])
        .args(["--suppress-health-check", "all"])
        .args(args.split_whitespace())
        .current_dir(dir.path())
        .env("SCHEMATHESIS_HOOKS", data.join("hooks.py"))
        .env("CLOUDKV_BUCKET", &bucket.id)
        .env("CLOUDKV_SPARE_BUCKET", &spare.id)
        .env("CLOUDKV_ACCOUNT", &bucket.account)
        .output()
        .expect("run schemathesis");
    let report = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}:\n{report}\n{stderr}",
        output.status
    );
    println!("{report}");
}

/// Returns the program: the one that `CLOUDKV_SCHEMATHESIS` names, that which `scripts/setup test`
/// installs into the target directory, or one in the `PATH`.
fn find_schemathesis() -> Option<PathBuf> {
    if let Some(path) = env::var_os("CLOUDKV_SCHEMATHESIS") {
        return Some(path.into());
    }
    // A test runs from `<target>/<profile>/deps/`.
    let test = env::current_exe().expect("the path of this test");
    let installed = test
        .ancestors()
        .nth(3)
        .map(|target| target.join("schemathesis/bin"));
    let search_path = env::var_os("PATH").unwrap_or_default();
    let dirs = installed.into_iter().chain(env::split_paths(&search_path));
    let mut programs = dirs.map(|dir| dir.join("schemathesis"));
    programs.find(|program| program.is_file())
}
