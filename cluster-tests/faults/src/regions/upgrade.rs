//! A rolling upgrade from an older build, and back, as operators do it: a node at a time, each
//! stopped by SIGTERM, while all regions are written and read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::context::RegionsContext;
use cloudkv_test_harness::region::MultiRegionCluster;

/// A phase of the upgrade: nodes that get a build, one after the other.
struct UpgradePhase {
    name: &'static str,
    seats: Vec<usize>,
    /// Path of the build; `None`: this build.
    binary: Option<PathBuf>,
}

/// Upgrades all nodes but one: while that one has the older build, the feature level stays and the
/// others can be downgraded again. The second phase does so, and the third upgrades all nodes.
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
/// Panics if a node doesn't stop as it should, or doesn't come back.
pub(super) async fn run_upgrade(
    cluster: &mut MultiRegionCluster,
    old: &Path,
    duration: Duration,
    context: &RegionsContext,
    report: impl Fn(&str),
) -> Vec<String> {
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
    done
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
}
