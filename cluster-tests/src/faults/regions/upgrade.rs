//! A rolling upgrade from an older build, and back, as operators do it: a node at a time, each
//! stopped by signal, while all regions are written and read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::field::Field;
use crate::region::World;

/// A leg of the way: which nodes get which build, one after the other.
struct Leg {
    name: &'static str,
    seats: Vec<usize>,
    /// `None`: this build.
    binary: Option<PathBuf>,
}

/// All but one node go forward: as long as that one has the older build, nothing is used that the
/// older one doesn't know. So they can go back, and do. Then all go forward.
fn legs(seats: &[usize], old: &Path) -> [Leg; 3] {
    let but_one = &seats[..seats.len().saturating_sub(1)];
    [
        Leg {
            name: "forward",
            seats: but_one.to_vec(),
            binary: None,
        },
        Leg {
            name: "back",
            seats: but_one.iter().rev().copied().collect(),
            binary: Some(old.to_owned()),
        },
        Leg {
            name: "forward for good",
            seats: seats.to_vec(),
            binary: None,
        },
    ]
}

/// Rolls all nodes, which run the build `old`, forward, back and forward again, within about
/// `lasts`. Returns what was done; less than all if the run is stopped.
///
/// # Panics
/// When a node doesn't stop as it should, or doesn't come back.
pub(super) async fn roll(
    world: &mut World,
    old: &Path,
    lasts: Duration,
    field: &Field,
    say: impl Fn(&str),
) -> Vec<String> {
    let legs = legs(&world.running(), old);
    let restarts: usize = legs.iter().map(|leg| leg.seats.len()).sum();
    let rest = lasts / u32::try_from(restarts).unwrap_or(u32::MAX).max(1);
    let mut done = vec![];
    for leg in legs {
        for seat in &leg.seats {
            if field.stopped() {
                return done;
            }
            world.terminate(*seat).await;
            world.members[*seat].flags.binary.clone_from(&leg.binary);
            world.restart(*seat).await;
            world.wait_ready(*seat).await;
            say(&format!("{}: node {seat}", leg.name));
            tokio::time::sleep(rest).await;
        }
        done.push(format!("{}: {} nodes", leg.name, leg.seats.len()));
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_stays_old_until_there_is_no_way_back() {
        let old = PathBuf::from("old");
        let mut builds = vec![Some(&old); 3];
        let legs = legs(&[0, 1, 2], &old);
        for (number, leg) in legs.iter().enumerate() {
            for seat in &leg.seats {
                builds[*seat] = leg.binary.as_ref();
                let some_old = builds.iter().any(Option::is_some);
                assert!(some_old || number == 2);
            }
        }
        assert_eq!(builds, [None; 3]);
    }
}
