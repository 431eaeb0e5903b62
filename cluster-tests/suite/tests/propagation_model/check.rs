//! Runs the model checker.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::properties;
use crate::world::Setup;

fn is_verbose() -> bool {
    std::env::var_os("REPORT").is_some()
}

/// Explores all states; panics with a trace if a property doesn't hold.
pub(crate) fn assert_holds(name: &str, setup: Setup) {
    let started = Instant::now();
    let checker = setup.checker().spawn_dfs().join();
    if is_verbose() {
        println!(
            "{name}: {} states, {} steps, depth {}, {:.1?}",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            started.elapsed()
        );
    }
    let mut discoveries = checker.discoveries().into_iter();
    let broken = discoveries.find(|(property, _)| *property != properties::TERMINATES);
    let broken =
        broken.map(|(property, path)| format!("{property}\n{}", trace(path.into_actions())));
    assert!(
        broken.is_none(),
        "{name}: violated: {}",
        broken.unwrap_or_default()
    );
    assert!(
        checker.discovery(properties::TERMINATES).is_some(),
        "{name}: no run terminates"
    );
}

/// Maximum number of states, so that a search without a counterexample doesn't fill the memory.
const MAX_STATES: usize = 4_000_000;

/// Searches breadth first for a counterexample to a property; panics if there is none.
pub(crate) fn assert_breaks(name: &str, property: &'static str, setup: Setup) {
    let started = Instant::now();
    let checker = setup
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .target_state_count(MAX_STATES)
        .spawn_bfs()
        .join();
    if is_verbose() {
        println!(
            "{name}: {} states, {:.1?}",
            checker.unique_state_count(),
            started.elapsed()
        );
        for (property, path) in checker.discoveries() {
            if property != properties::TERMINATES {
                println!(
                    "{name}: violated: {property}\n{}",
                    trace(path.into_actions())
                );
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
