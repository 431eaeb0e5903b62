//! `cloudkv-node admin verify`: compares the shards in all regions, one after the other.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{AdminCallError, send_scan};
use super::output::{Output, print};
use super::render::render;
use super::requests::{fetch_status, fetch_status_with_retries, success_body};
use super::shard_ranges::format_ranges;
use crate::config::AdminCall;

/// Fields of compared shards, in the order in which they are shown.
const COMPARISON_FIELDS: [&str; 5] = ["shard", "verdict", "records", "ranges", "regions"];

/// A shard that could not be compared.
#[derive(Clone, Debug)]
struct UncomparedShard {
    number: u64,
    /// The region that gave no digests; `None` if the node doesn't name it.
    region: Option<String>,
    reason: String,
}

impl UncomparedShard {
    /// Reads the response to a comparison that wasn't possible.
    fn from_response(number: u64, body: &Value) -> Self {
        // A node of a version before these fields has the message only.
        let reason = body["reason"].as_str().or(body["message"].as_str());
        Self {
            number,
            region: body["region"].as_str().map(str::to_owned),
            reason: reason.unwrap_or("the node gives no reason").to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "shard": self.number,
            "verdict": "not_compared",
            "region": self.region,
            "reason": self.reason,
        })
    }
}

/// Compares all shards, and prints the results. Returns an error if regions differ, or if some
/// shards could not be compared.
pub(super) async fn run(
    call: &AdminCall,
    json: bool,
    out: Output<'_>,
) -> Result<(), AdminCallError> {
    let mut status = fetch_status_with_retries(call).await?;
    let unreached = unreached_regions(&status).join(", ");
    if !unreached.is_empty() && !json {
        let text = format!("waiting up to 30 s for {unreached}: no node there is reached\n");
        print(out, &text)?;
    }
    let (mut compared, mut failed) = (Vec::new(), Vec::new());
    let shards = status["shards"].as_u64().unwrap_or(0);
    for number in 0..shards {
        let failure = match compare(call, number).await? {
            Ok(comparison) => {
                compared.push(comparison);
                continue;
            }
            Err(failure) => failure,
        };
        status = fetch_status(call).await.unwrap_or(status);
        if is_unreached(&status, &failure) {
            // Each of the others would wait in vain.
            failed.extend((number..shards).map(|number| UncomparedShard {
                number,
                ..failure.clone()
            }));
            break;
        }
        if !json && number + 1 < shards {
            let reason = &failure.reason;
            let text = format!("shard-{number} can't be compared: {reason}; going on\n");
            print(out, &text)?;
        }
        failed.push(failure);
    }
    let has = |verdict: &str| compared.iter().any(|shard| shard["verdict"] == verdict);
    let (is_different, is_undecided) = (has("different"), has("undecided"));
    let text = format_results(compared, &failed, json);
    if !failed.is_empty() {
        print(out, &text)?;
        return Err(AdminCallError::NotCompared {
            target: call.target.clone(),
            shards: describe_failures(&failed, &status),
            do_others_differ: is_different,
        });
    }
    match (is_different, is_undecided) {
        (false, false) => print(out, &text),
        (true, _) => Err(AdminCallError::RegionsDiffer { text }),
        (false, true) => Err(AdminCallError::Undecided { text }),
    }
}

/// Compares a shard. The inner error says why that wasn't possible.
async fn compare(
    call: &AdminCall,
    number: u64,
) -> Result<Result<Value, UncomparedShard>, AdminCallError> {
    let path = format!("/shards/{number}/verify");
    let (target, token) = (&call.target, call.token.as_ref());
    let (status, body) = send_scan(target, Method::POST, &path, token).await?;
    if status == StatusCode::SERVICE_UNAVAILABLE && body["error"] == "unavailable" {
        return Ok(Err(UncomparedShard::from_response(number, &body)));
    }
    success_body(call, (status, body)).map(Ok)
}

/// Formats the results: the compared shards as a table, or all shards as JSON.
fn format_results(mut results: Vec<Value>, failed: &[UncomparedShard], json: bool) -> String {
    if json {
        results.extend(failed.iter().map(UncomparedShard::to_json));
        results.sort_by_key(|shard| shard["shard"].as_u64());
        return format!("{:#}\n", Value::Array(results));
    }
    if results.is_empty() {
        return String::new();
    }
    render(&Value::Array(results), &COMPARISON_FIELDS)
}

/// Describes why shards could not be compared, and what to do: a line for each cause.
fn describe_failures(failed: &[UncomparedShard], status: &Value) -> String {
    let mut by_cause: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for failure in failed {
        let shards = by_cause.entry(describe_cause(failure, status)).or_default();
        shards.push(format!("shard-{}", failure.number));
    }
    let lines = by_cause.iter().map(|(cause, shards)| {
        let shards: Vec<&str> = shards.iter().map(String::as_str).collect();
        format!("  {}: {cause}", format_ranges(&shards))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn describe_cause(failure: &UncomparedShard, status: &Value) -> String {
    let reason = &failure.reason;
    let Some(region) = &failure.region else {
        return reason.clone();
    };
    let nodes = unreachable_nodes(status, region);
    let list = nodes.join(", ");
    let is_one = nodes.len() == 1;
    let (them, if_lost) = if is_one {
        ("it", "it is lost")
    } else {
        ("them", "all are lost")
    };
    if is_unreached(status, failure) {
        return format!(
            "region {region} is unreachable ({list}): start {them}, and verify again; if \
             {if_lost} for good, first `cloudkv-node admin remove-region {region}`"
        );
    }
    if nodes.is_empty() {
        return format!(
            "{reason}: all nodes of the region are reached, so verify again in some seconds; if \
             it fails again, see their logs"
        );
    }
    let nodes_are = if is_one {
        format!("node {list} is")
    } else {
        format!("nodes {list} are")
    };
    format!("{reason}, and its {nodes_are} unreachable: start {them}, and verify again")
}

/// Returns whether none of the nodes of the region that gave no digests is reached.
fn is_unreached(status: &Value, failure: &UncomparedShard) -> bool {
    let region = failure.region.as_deref();
    region.is_some_and(|region| unreached_regions(status).contains(&region))
}

/// Names of the regions to compare of which no node is reached.
fn unreached_regions(status: &Value) -> Vec<&str> {
    let is_reached = |name: &str| {
        let mut nodes = nodes(status);
        nodes.any(|node| node["region"] == name && node["alive"] == true)
    };
    let regions = status["regions"].as_array().into_iter().flatten();
    regions
        .filter(|region| region["joining"] != true && region["leaving"] != true)
        .filter_map(|region| region["name"].as_str())
        .filter(|name| !is_reached(name))
        .collect()
}

/// Names of a region's nodes that aren't reached; addresses where several have the same name. The
/// number follows where a removed node had the same, as on the page of `admin status`.
fn unreachable_nodes(status: &Value, region: &str) -> Vec<String> {
    let present = || nodes(status).filter(|node| node["state"] != "removed");
    let display_name = |node: &Value| {
        let same_name = present().filter(|other| other["name"] == node["name"]);
        let field = if same_name.count() > 1 { "rpc" } else { "name" };
        let name = node[field].as_str()?;
        let mut others = nodes(status).filter(|other| other["id"] != node["id"]);
        Some(if others.any(|other| other[field] == node[field]) {
            format!("{name} ({})", node["id"])
        } else {
            name.to_owned()
        })
    };
    present()
        .filter(|node| node["region"] == region && node["alive"] != true)
        .filter_map(display_name)
        .collect()
}

/// Nodes in the status.
fn nodes(status: &Value) -> impl Iterator<Item = &Value> {
    status["nodes"].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(region: &str, name: &str, is_alive: bool) -> Value {
        json!({ "region": region, "name": name, "alive": is_alive, "state": "active" })
    }

    fn failure(number: u64, region: &str) -> UncomparedShard {
        UncomparedShard {
            number,
            region: Some(region.to_owned()),
            reason: format!("no leader in region {region} is known to this node"),
        }
    }

    #[test]
    fn it_waits_for_regions_that_are_to_be_compared_and_are_not_reached() {
        let region = |name: &str, joining: bool| json!({ "name": name, "joining": joining });
        let status = json!({
            "regions": [region("eu", false), region("us", false), region("ap", true)],
            "nodes": [node("eu", "e1", false), node("eu", "e2", true), node("us", "u1", false),
                node("ap", "a1", false)],
        });
        assert_eq!(unreached_regions(&status), ["us"]);
    }

    #[test]
    fn shards_that_could_not_be_compared_are_named_with_the_region_and_what_to_do() {
        let status = json!({
            "regions": [{ "name": "eu" }, { "name": "us" }, { "name": "ap" }],
            "nodes": [node("eu", "e1", true), node("us", "u1", false), node("us", "u2", false),
                node("ap", "a1", true), node("ap", "a2", false)],
        });
        let failed = [0, 1, 2].map(|number| failure(number, "us"));
        assert_eq!(
            describe_failures(&failed, &status),
            "  shard-0 to shard-2: region us is unreachable (u1, u2): start them, and verify \
             again; if all are lost for good, first `cloudkv-node admin remove-region us`"
        );
        let text = describe_failures(&[failure(1, "ap"), failure(3, "eu")], &status);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "  shard-1: no leader in region ap is known to this node, and its node a2 is \
                 unreachable: start it, and verify again",
                "  shard-3: no leader in region eu is known to this node: all nodes of the region \
                 are reached, so verify again in some seconds; if it fails again, see their logs",
            ]
        );
        let old = UncomparedShard::from_response(4, &json!({ "message": "no leader" }));
        assert_eq!(describe_failures(&[old], &status), "  shard-4: no leader");
    }

    #[test]
    fn nodes_that_share_a_name_with_a_removed_one_have_their_number() {
        let numbered = |id: u64, name: &str, state: &str| {
            json!({ "id": id, "region": "us", "name": name, "rpc": format!("{name}:7070"),
                "alive": false, "state": state })
        };
        let mut status = json!({ "nodes": [numbered(1, "u1", "removed"),
            numbered(2, "u1", "active"), numbered(3, "u2", "active")] });
        assert_eq!(unreachable_nodes(&status, "us"), ["u1 (2)", "u2"]);
        // Nodes on one host have addresses.
        status["nodes"][2]["name"] = json!("u1");
        assert_eq!(unreachable_nodes(&status, "us"), ["u1:7070 (2)", "u2:7070"]);
    }

    #[test]
    fn json_has_all_shards_in_order() {
        let compared = vec![json!({ "shard": 1, "verdict": "equal" })];
        let text = format_results(compared, &[failure(0, "us")], true);
        let all: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(all[0]["verdict"], "not_compared");
        assert_eq!(
            (&all[0]["region"], &all[1]["shard"]),
            (&json!("us"), &json!(1))
        );
    }
}
