//! `docs/operations/status.md` documents each field of the statuses of nodes and routers, and no
//! other.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{ApiClient, Router};
use serde_json::Value;

/// The fields of a status, and its empty lists, whose fields are unknown.
#[derive(Debug, Default)]
struct Fields {
    named: BTreeSet<String>,
    empty: BTreeSet<String>,
}

impl Fields {
    /// Adds the fields of the value at `path`.
    fn add(&mut self, path: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.add(&format!("{path}{dot}{name}"), value);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    self.add(&format!("{path}[]"), item);
                }
            }
            Value::Array(items) if items.is_empty() => {
                self.empty.insert(path.to_owned());
            }
            Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => {
                self.named.insert(path.to_owned());
            }
        }
    }

    /// Returns whether a field is an empty list, or belongs to one and so can't be seen.
    fn is_hidden(&self, field: &str) -> bool {
        let contains =
            |list: &String| field == list.as_str() || field.starts_with(&format!("{list}[]"));
        self.empty.iter().any(contains)
    }
}

/// Returns the fields in the tables of a section: the texts in backquotes in each row's first cell.
fn documented_fields(section: &str) -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations/status.md");
    let page = std::fs::read_to_string(page).unwrap();
    let start = page
        .find(&format!("\n## {section}\n"))
        .expect("the section")
        + 1;
    let rest = &page[start..];
    let section = &rest[..rest[1..].find("\n## ").map_or(rest.len(), |end| end + 1)];
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// Checks that a section documents exactly the fields of a program's status.
async fn assert_documented(section: &str, admin: ApiClient) {
    let status = admin.get("/status").unchecked().await.json();
    let mut fields = Fields::default();
    fields.add("", &status);
    let documented = documented_fields(section);
    let missing: Vec<&String> = fields.named.difference(&documented).collect();
    assert!(missing.is_empty(), "not documented: {missing:?}");
    let unknown = documented.difference(&fields.named);
    let unknown: Vec<&String> = unknown.filter(|field| !fields.is_hidden(field)).collect();
    assert!(
        unknown.is_empty(),
        "documented, but absent: {unknown:?}\n{status:#}"
    );
}

#[tokio::test]
async fn every_field_of_the_status_is_documented() {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let router = Router::start(&[world.seat(0).rpc()]).await;
    assert_documented("Status of a node", world.nodes[0].admin_api()).await;
    assert_documented("Status of a router", router.admin_api()).await;
}
