//! Rules and dashboards name metrics that nodes really export, and nodes take the examples of
//! configuration.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloudkv_cluster_tests::eventually;
use cloudkv_cluster_tests::harness::clean_command;
use cloudkv_cluster_tests::harness::prometheus::sample_names;
use cloudkv_cluster_tests::region::{RegionOptions, World};

const SOON: Duration = Duration::from_secs(60);
/// What names of metrics begin with.
const PREFIXES: [&str; 2] = ["cloudkv_", "process_"];

fn deploy() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap().join("deploy")
}

/// The metrics that a file names, whatever it is written in.
fn named_in(text: &str) -> BTreeSet<String> {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !part_of_name(c));
    let metrics = words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)));
    metrics.map(str::to_owned).collect()
}

/// The files that name metrics, with what they name.
fn files() -> BTreeMap<PathBuf, BTreeSet<String>> {
    let mut files = vec![deploy().join("prometheus/rules.yaml")];
    let dashboards = fs::read_dir(deploy().join("grafana/dashboards")).unwrap();
    for dashboard in dashboards.map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&dashboard).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("a dashboard's JSON");
        let panels = parsed["panels"].as_array().expect("panels");
        assert!(panels.len() > 10, "{}", dashboard.display());
        files.push(dashboard);
    }
    let named = files.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path, named_in(&text))
    });
    named.collect()
}

#[tokio::test]
async fn every_metric_of_rules_and_dashboards_exists() {
    let files = files();
    for (path, names) in &files {
        assert!(names.len() > 10, "{} names few metrics", path.display());
    }
    let options = RegionOptions {
        tls: true,
        ..Default::default()
    };
    let region = World::start_with(&["eu", "us", "ap"], 1, 3, options).await;
    let bucket = region.api(0).bucket().await;
    region.api(0).get(&bucket.key("absent")).await.status(404);
    eventually("all metrics are there", SOON, async || {
        let mut exported = BTreeSet::new();
        for seat in region.running() {
            let page = region.members[seat]
                .admin_api()
                .get("/metrics")
                .unchecked()
                .await;
            exported.extend(sample_names(page.status(200).text()).expect("a page of metrics"));
        }
        let missing = |names: &BTreeSet<String>| {
            let missing: Vec<String> = names.difference(&exported).cloned().collect();
            missing
        };
        let wrong: Vec<(&PathBuf, Vec<String>)> = files
            .iter()
            .map(|(path, names)| (path, missing(names)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        if !wrong.is_empty() {
            println!("not exported: {wrong:?}");
        }
        wrong.is_empty().then_some(())
    })
    .await;
}

#[test]
fn names_are_found_in_expressions() {
    let text = r#"rate(cloudkv_a_total{b="c"}[5m]) / "process_x" + up{job="cloudkv-node"}"#;
    let names: Vec<String> = named_in(text).into_iter().collect();
    assert_eq!(names, ["cloudkv_a_total", "process_x"]);
}

#[test]
fn nodes_take_the_examples_of_configuration() {
    let examples = fs::read_dir(deploy().join("examples")).unwrap();
    let paths = examples.map(|entry| entry.unwrap().path());
    let is_node = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("node.")
    };
    let nodes: Vec<PathBuf> = paths.filter(is_node).collect();
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    for path in nodes {
        let mut command = clean_command();
        command.arg("--config").arg(&path).arg("--print-config");
        // As the example says.
        command.env("CLOUDKV_ADMIN_TOKEN", "0123456789abcdef");
        let output = command.output().expect("run the node");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {told}", path.display());
    }
}
