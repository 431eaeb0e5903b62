//! Cross-check: random histories get the same verdict from an independent checker, `todc`.

use todc_utils::Specification;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};

use super::generate::{HistoryShape, corrupt, generate_history};
use super::{ABSENT, Content, RegisterOp, SearchBudget, Verdict, check};
use cloudkv_test_harness::rng::Rng;

struct Register;

impl Specification for Register {
    type State = Content;
    type Operation = RegisterOp;

    fn init() -> Content {
        ABSENT
    }

    fn apply(op: &RegisterOp, state: &Content) -> (bool, Content) {
        (op.precondition.is_met_by(*state), op.effect.apply(*state))
    }
}

/// Returns the verdict of the other checker. It has no unknown outcomes: such an operation takes
/// effect, at the latest at the end of the history, or is left out, and some choice must be
/// linearizable.
fn reference_verdict(ops: &[RegisterOp]) -> bool {
    let unknown: Vec<usize> = (0..ops.len()).filter(|at| ops[*at].end.is_none()).collect();
    (0_u32..1 << unknown.len()).any(|choice| {
        let left_out = unknown
            .iter()
            .enumerate()
            .filter(|(bit, _)| choice >> bit & 1 == 0);
        let left_out: Vec<usize> = left_out.map(|(_, at)| *at).collect();
        let there = (0..ops.len()).filter(|at| !left_out.contains(at));
        let mut events: Vec<(u64, bool, usize)> = there
            .flat_map(|at| {
                let end = ops[at].end.unwrap_or(u64::MAX);
                [(ops[at].start, false, at), (end, true, at)]
            })
            .collect();
        // Calls come before responses of the same instant.
        events.sort_unstable();
        let actions = events.into_iter().map(|(_, ends, at)| {
            let action = if ends { Action::Response } else { Action::Call };
            (at, action(ops[at]))
        });
        let actions: Vec<_> = actions.collect();
        actions.is_empty()
            || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
    })
}

#[test]
fn random_histories_get_the_verdict_of_an_independent_checker() {
    let (mut linearizable, mut violated) = (0, 0);
    for seed in 0..1500 {
        let mut rng = Rng::derived(seed, 2);
        let shape = HistoryShape {
            clients: 2 + seed % 4,
            ops: 10 + usize::try_from(seed % 30).unwrap(),
            unknown_permille: 60,
            // It knows no order of overlapping operations.
            batch_permille: 0,
            max_lag: 5,
        };
        let mut ops = generate_history(&mut rng, &shape);
        if ops.iter().filter(|op| op.end.is_none()).count() > 4 {
            continue;
        }
        for _ in 0..2 {
            let verdict = check(&ops, SearchBudget::default());
            assert_ne!(verdict, Verdict::Undecided, "seed {seed}");
            let ours = verdict == Verdict::Linearizable;
            assert_eq!(ours, reference_verdict(&ops), "seed {seed}: {ops:#?}");
            *(if ours {
                &mut linearizable
            } else {
                &mut violated
            }) += 1;
            corrupt(&mut rng, &mut ops);
        }
    }
    assert!(
        linearizable > 500 && violated > 300,
        "{linearizable} linearizable, {violated} not"
    );
}
