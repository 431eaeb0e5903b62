//! Runs the checker.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::properties;
use crate::world::Setup;

fn reports() -> bool {
    std::env::var_os("REPORT").is_some()
}

/// Tries everything, and fails with a trace when a property doesn't hold.
pub fn holds(name: &str, setup: Setup) {
    let started = Instant::now();
    let checker = setup.checker().spawn_dfs().join();
    if reports() {
        println!(
            "{name}: {} states, {} steps, depth {}, {:.1?}",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            started.elapsed()
        );
    }
    let mut found = checker.discoveries().into_iter();
    let broken = found.find(|(property, _)| *property != properties::ENDS);
    let broken =
        broken.map(|(property, path)| format!("{property}\n{}", trace(path.into_actions())));
    assert!(
        broken.is_none(),
        "{name}: not so: {}",
        broken.unwrap_or_default()
    );
    assert!(
        checker.discovery(properties::ENDS).is_some(),
        "{name}: no run comes to its end"
    );
}

/// Keeps a search that finds nothing from filling the memory.
const MOST_STEPS: usize = 4_000_000;

/// Finds a short counterexample to a property.
pub fn breaks(name: &str, property: &'static str, setup: Setup) {
    let started = Instant::now();
    let checker = setup
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .target_state_count(MOST_STEPS)
        .spawn_bfs()
        .join();
    if reports() {
        println!(
            "{name}: {} states, {:.1?}",
            checker.unique_state_count(),
            started.elapsed()
        );
        for (property, path) in checker.discoveries() {
            if property != properties::ENDS {
                println!("{name}: not so: {property}\n{}", trace(path.into_actions()));
            }
        }
    }
    assert!(
        checker.discovery(property).is_some(),
        "{name}: no counterexample to: {property}"
    );
}

fn trace<A: std::fmt::Debug>(actions: Vec<A>) -> String {
    let lines = actions.iter().map(|action| format!("  {action:?}\n"));
    lines.collect()
}
