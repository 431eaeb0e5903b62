//! Random histories: correct ones pass, and corrupted ones get the verdict of the brute-force
//! checker.

use super::generate::{HistoryShape, corrupt, generate_history};
use super::{ABSENT, Effect, Precondition, RegisterOp, SearchBudget, Verdict, brute_force, check};
use cloudkv_test_harness::rng::Rng;

#[test]
fn small_histories_get_the_verdict_of_the_brute_force_checker() {
    let (mut linearizable, mut violated) = (0, 0);
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let shape = HistoryShape {
            clients: 2 + seed % 3,
            ops: 3 + usize::try_from(seed % 6).unwrap(),
            unknown_permille: 250,
            batch_permille: 200,
            max_lag: 4,
        };
        let mut ops = generate_history(&mut rng, &shape);
        assert_eq!(verdict(&ops), Some(true), "seed {seed}: {ops:#?}");
        for _ in 0..1 + rng.index(2) {
            corrupt(&mut rng, &mut ops);
        }
        let expected = brute_force::is_linearizable(&ops);
        assert_eq!(verdict(&ops), Some(expected), "seed {seed}: {ops:#?}");
        *(if expected {
            &mut linearizable
        } else {
            &mut violated
        }) += 1;
    }
    assert!(
        linearizable > 1000 && violated > 1000,
        "{linearizable} linearizable, {violated} not"
    );
}

#[test]
fn long_histories_with_many_unknown_outcomes_are_decided() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let shape = HistoryShape {
            clients: 2 + seed,
            ops: 4000,
            unknown_permille: 15,
            batch_permille: 100,
            max_lag: 50,
        };
        let mut ops = generate_history(&mut rng, &shape);
        let unknown = ops.iter().filter(|op| op.end.is_none()).count();
        assert!(unknown > 15, "{unknown}");
        assert_eq!(verdict(&ops), Some(true), "seed {seed}");
        insert_stale_read(&mut rng, &mut ops);
        assert_eq!(verdict(&ops), Some(false), "seed {seed}");
    }
}

/// Returns whether the history is linearizable; `None`: undecided.
fn verdict(ops: &[RegisterOp]) -> Option<bool> {
    match check(ops, SearchBudget::default()) {
        Verdict::Linearizable => Some(true),
        Verdict::Violated { .. } => Some(false),
        Verdict::Undecided => None,
    }
}

/// Changes a late read so that it returns a value which two acknowledged plain writes, one after
/// the other and both before the read, have overwritten.
fn insert_stale_read(rng: &mut Rng, ops: &mut [RegisterOp]) {
    let plain = |op: &&RegisterOp| {
        let is_put = matches!(op.effect, Effect::Put(_));
        op.precondition == Precondition::Any && op.end.is_some() && is_put
    };
    let mut writes: Vec<RegisterOp> = ops.iter().filter(plain).copied().collect();
    writes.sort_by_key(|op| op.end);
    let old = writes[rng.index(writes.len() / 4)];
    let newer = writes.iter().find(|op| Some(op.start) > old.end);
    let overwritten = newer.and_then(|op| op.end);
    let is_late_read =
        |op: &&mut RegisterOp| op.effect == Effect::Nothing && Some(op.start) > overwritten;
    let reads: Vec<&mut RegisterOp> = ops.iter_mut().filter(is_late_read).collect();
    let read = reads.into_iter().next_back().expect("a late read");
    read.precondition = Precondition::Equals(old.effect.apply(ABSENT));
}
