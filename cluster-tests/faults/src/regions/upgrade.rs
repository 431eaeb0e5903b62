//! A rolling upgrade from an older build, and back, as operators do it: a node at a time, each
//! stopped by SIGTERM, while all regions are written and read. Both builds may have the same
//! feature level, or the newer one a higher level. Clients use calls of level 2 only after that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::context::RegionsContext;
use cloudkv_test_harness::eventually;
use cloudkv_test_harness::region::MultiRegionCluster;

/// Time for all nodes to hear of each other's registration.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for which the load goes on after the last node has brought a higher level: the cluster
/// raises its own within seconds, which no status shows.
const HIGHER_LEVEL_LOAD: Duration = Duration::from_secs(20);

/// A phase of the upgrade: nodes that get a build, one after the other.
struct UpgradePhase {
    name: &'static str,
    seats: Vec<usize>,
    /// Path of the build; `None`: this build.
    binary: Option<PathBuf>,
}

/// Upgrades all nodes but one: while that one has the older build, the feature level stays, even if
/// the newer build has a higher one, and the others can be downgraded again. The second phase does
/// so, and the third upgrades all nodes.
fn upgrade_phases(seats: &[usize], old: &Path) -> [UpgradePhase; 3] {
    let but_one = &seats[..seats.len().saturating_sub(1)];
    [
        UpgradePhase {
            name: "forward",
            seats: but_one.to_vec(),
            binary: None,
        },
        UpgradePhase {
            name: "back",
            seats: but_one.iter().rev().copied().collect(),
            binary: Some(old.to_owned()),
        },
        UpgradePhase {
            name: "forward for good",
            seats: seats.to_vec(),
            binary: None,
        },
    ]
}

/// Upgrades all nodes, which run the build `old`, downgrades them, and upgrades them again, within
/// about `duration`. Returns what was done; less than all if the run is stopped.
///
/// # Panics
/// Panics if a node doesn't stop as it should, or doesn't come back, or if the newer build has a
/// lower feature level.
pub(super) async fn run_upgrade(
    cluster: &mut MultiRegionCluster,
    old: &Path,
    duration: Duration,
    context: &RegionsContext,
    report: impl Fn(&str),
) -> Vec<String> {
    let old_level = shared_level(cluster).await;
    let phases = upgrade_phases(&cluster.running(), old);
    let restarts: usize = phases.iter().map(|phase| phase.seats.len()).sum();
    let pause = duration / u32::try_from(restarts).unwrap_or(u32::MAX).max(1);
    let mut done = vec![];
    for phase in phases {
        for seat in &phase.seats {
            if context.is_stopped() {
                return done;
            }
            cluster.terminate(*seat).await;
            cluster.nodes[*seat].flags.binary.clone_from(&phase.binary);
            cluster.restart(*seat).await;
            cluster.wait_ready(*seat).await;
            report(&format!("{}: node {seat}", phase.name));
            tokio::time::sleep(pause).await;
        }
        done.push(format!("{}: {} nodes", phase.name, phase.seats.len()));
    }
    let new_level = shared_level(cluster).await;
    assert!(
        new_level >= old_level,
        "the older build has feature level {old_level}, this one {new_level}"
    );
    // Nodes refuse the new calls, without an effect, until the cluster has the level.
    context.enable_new_calls();
    if new_level > old_level {
        report(&format!("feature level {old_level} becomes {new_level}"));
        tokio::time::sleep(HIGHER_LEVEL_LOAD).await;
    }
    done.push(format!("feature level {old_level}, then {new_level}"));
    done
}

/// Waits until all running nodes see all nodes with the same feature level, and returns it.
async fn shared_level(cluster: &MultiRegionCluster) -> u64 {
    let what = "all nodes have one feature level";
    eventually(what, REGISTRATION_TIMEOUT, async || {
        let mut levels = BTreeSet::new();
        for seat in cluster.running() {
            let call = cluster.nodes[seat].admin_api().get("/status").unchecked();
            let response = call.try_send().await.ok()?;
            levels.extend(levels_in(&response.json())?);
        }
        levels.pop_first().filter(|_| levels.is_empty())
    })
    .await
}

/// Returns the levels of the nodes in a status; `None` if it isn't complete.
fn levels_in(status: &Value) -> Option<Vec<u64>> {
    let nodes = status["nodes"].as_array()?.iter();
    nodes.map(|node| node["level"].as_u64()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_keeps_the_old_build_until_the_last_phase() {
        let old = PathBuf::from("old");
        let mut builds = vec![Some(&old); 3];
        let phases = upgrade_phases(&[0, 1, 2], &old);
        for (number, phase) in phases.iter().enumerate() {
            for seat in &phase.seats {
                builds[*seat] = phase.binary.as_ref();
                let has_old = builds.iter().any(Option::is_some);
                assert!(has_old || number == 2);
            }
        }
        assert_eq!(builds, [None; 3]);
    }

    #[test]
    fn the_levels_of_all_nodes_are_read() {
        let status = serde_json::json!({"nodes": [{"level": 2}, {"level": 1}]});
        assert_eq!(levels_in(&status), Some(vec![2, 1]));
        for incomplete in [r#"{"starting": "x"}"#, r#"{"nodes": [{"level": 1}, {}]}"#] {
            let status: Value = incomplete.parse().unwrap();
            assert_eq!(levels_in(&status), None);
        }
    }
}
