//! Alert rules and dashboards name metrics that nodes and routers export, the files of `deploy/`
//! agree with each other, and the programs accept the example configurations.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloudkv_test_harness::prometheus::sample_names;
use cloudkv_test_harness::region::{MultiRegionCluster, RegionOptions};
use cloudkv_test_harness::{ApiClient, Router, eventually};
use cloudkv_test_harness::{node_command, router_command};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Prefixes of metric names.
const METRIC_PREFIXES: [&str; 2] = ["cloudkv_", "process_"];

fn deploy_dir() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap().join("deploy")
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy_dir().join(path)).unwrap()
}

/// Returns the words of a text that begin with one of `prefixes`.
fn words_with(text: &str, prefixes: &[&str]) -> BTreeSet<String> {
    let is_part_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part_of_word(c));
    let matches = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
    matches.map(str::to_owned).collect()
}

/// Returns the metrics that a text names, in any format.
fn metric_names(text: &str) -> BTreeSet<String> {
    words_with(text, &METRIC_PREFIXES)
}

/// Returns the files that name metrics, with the names.
fn files_with_metrics() -> BTreeMap<PathBuf, BTreeSet<String>> {
    let mut files = vec![deploy_dir().join("prometheus/rules.yaml")];
    let dashboards = fs::read_dir(deploy_dir().join("grafana/dashboards")).unwrap();
    for dashboard in dashboards.map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&dashboard).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("a dashboard's JSON");
        let panels = parsed["panels"].as_array().expect("panels");
        assert!(panels.len() > 10, "{}", dashboard.display());
        files.push(dashboard);
    }
    let named = files.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path, metric_names(&text))
    });
    named.collect()
}

#[tokio::test]
async fn every_metric_of_rules_and_dashboards_exists() {
    let files = files_with_metrics();
    for (path, names) in &files {
        assert!(names.len() > 10, "{} names few metrics", path.display());
    }
    let options = RegionOptions {
        tls: true,
        ..Default::default()
    };
    let region = MultiRegionCluster::start_with(&["eu", "us", "ap"], 1, 3, options).await;
    let args = region.certificates().issue_router("router");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let router = Router::start_with(&[region.seat(0).rpc()], &args).await;
    let bucket = router.api().create_bucket().await;
    for api in [region.api(0), router.api()] {
        api.get(&bucket.key_path("absent")).await.assert_status(404);
    }
    eventually("all metrics are exported", STATE_TIMEOUT, async || {
        let nodes = region.running().into_iter();
        let mut programs: Vec<ApiClient> =
            nodes.map(|seat| region.nodes[seat].admin_api()).collect();
        programs.push(router.admin_api());
        let mut exported = BTreeSet::new();
        for program in programs {
            let page = program.get("/metrics").unchecked().await;
            exported
                .extend(sample_names(page.assert_status(200).text()).expect("a page of metrics"));
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
    let names: Vec<String> = metric_names(text).into_iter().collect();
    assert_eq!(names, ["cloudkv_a_total", "process_x"]);
}

/// Returns the rest of the lines that begin with `key`, as in `- alert: NAME`.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix(key))
        .map(str::trim)
        .collect()
}

#[test]
fn every_alert_is_documented_and_no_other() {
    let alerts: BTreeSet<String> = values(&read("prometheus/rules.yaml"), "- alert:")
        .into_iter()
        .map(str::to_owned)
        .collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    let guide = read("../docs/operations/alerts.md");
    let rows = guide.lines().filter(|line| line.starts_with("| `CloudKV"));
    let first_cells = rows.filter_map(|row| row.split('|').nth(1));
    let documented: BTreeSet<String> = first_cells
        .flat_map(|cell| words_with(cell, &["CloudKV"]))
        .collect();
    assert_eq!(documented, alerts);
}

/// Returns the names of a compose file's services that use a template.
fn services(compose: &str, template: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = compose.lines().collect();
    let made = lines
        .windows(2)
        .filter(|pair| pair[1] == format!("    <<: *{template}"));
    made.map(|pair| pair[0].trim().trim_end_matches(':').to_owned())
        .collect()
}

#[test]
fn prometheus_scrapes_all_services_of_the_full_compose_file() {
    let (compose, scrapes) = (
        read("compose.full.yaml"),
        read("prometheus/prometheus.yaml"),
    );
    for (template, port, count) in [("node", 9090, 9), ("router", 9091, 3)] {
        let started = services(&compose, template);
        assert_eq!(started.len(), count, "{template}");
        for service in started {
            let target = format!("{service}:{port}");
            assert!(scrapes.contains(&target), "{target} isn't scraped");
        }
        assert!(scrapes.contains(&format!("job_name: cloudkv-{template}")));
        assert!(compose.contains(&format!("CLOUDKV_ADMIN: 0.0.0.0:{port}")));
    }
    let tokens: BTreeSet<&str> = values(&scrapes, "credentials:")
        .into_iter()
        .chain(values(&compose, "CLOUDKV_ADMIN_TOKEN:"))
        .collect();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
}

#[test]
fn the_example_configurations_are_accepted() {
    let examples = fs::read_dir(deploy_dir().join("examples")).unwrap();
    let examples: Vec<PathBuf> = examples.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(examples.len(), 4, "{examples:?}");
    for path in examples {
        let name = path.file_name().unwrap().to_string_lossy();
        let mut command = if name.starts_with("node.") {
            node_command()
        } else {
            router_command()
        };
        command.arg("--config").arg(&path).arg("--print-config");
        // As the examples say.
        command.env("CLOUDKV_ADMIN_TOKEN", "0123456789abcdef");
        let output = command.output().expect("run the program");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", path.display());
    }
}
