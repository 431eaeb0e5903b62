//! Splits a shard's operations of a batch into waves, which are executed one after the other.
//!
//! ```text
//!   put a   get a   get b   put b   get a   delete a
//!   └─ 0 ─┘ └─ 1 ─┘ └─ 0 ─┘ └─ 1 ─┘ └─ 1 ─┘ └─ 2 ──┘    wave of each operation
//! ```
//!
//! Invariant: the operations on a key keep their order, and no key occurs twice in a wave unless it
//! is only read there.

use std::collections::HashMap;
use std::iter::repeat_with;

/// Use of a key by an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyAccess<'a> {
    pub key: &'a [u8],
    pub is_write: bool,
}

/// Splits operations into waves, each in the order of the batch.
pub(super) fn split_into_waves<T>(
    operations: Vec<T>,
    access: impl for<'a> Fn(&'a T) -> KeyAccess<'a>,
) -> Vec<Vec<T>> {
    let waves = assign_waves(operations.iter().map(access));
    let count = waves.iter().map(|wave| wave + 1).max().unwrap_or(0);
    let mut split: Vec<Vec<T>> = repeat_with(Vec::new).take(count).collect();
    for (operation, wave) in operations.into_iter().zip(waves) {
        if let Some(wave) = split.get_mut(wave) {
            wave.push(operation);
        }
    }
    split
}

/// Returns the wave of each operation, the lowest that is possible: after those of earlier
/// operations on the same key, except that reads with no write in between share one.
fn assign_waves<'a>(accesses: impl Iterator<Item = KeyAccess<'a>>) -> Vec<usize> {
    let mut last = HashMap::<&[u8], (usize, bool)>::new();
    let assign = |access: KeyAccess<'a>| {
        let wave = match last.get(access.key) {
            None => 0,
            Some((wave, false)) if !access.is_write => *wave,
            Some((wave, _)) => wave + 1,
        };
        last.insert(access.key, (wave, access.is_write));
        wave
    };
    accesses.map(assign).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Use of a key by an operation such as `+a` (a write) or `a` (a read).
    fn access(operation: &str) -> KeyAccess<'_> {
        KeyAccess {
            key: operation.trim_start_matches('+').as_bytes(),
            is_write: operation.starts_with('+'),
        }
    }

    fn waves(operations: &str) -> Vec<usize> {
        assign_waves(operations.split_whitespace().map(access))
    }

    #[test]
    fn operations_on_one_key_are_in_waves_of_their_order() {
        assert_eq!(waves("+a a b +b a +a"), [0, 1, 0, 1, 1, 2]);
        assert_eq!(waves("a a +a +a a a"), [0, 0, 1, 2, 3, 3]);
        assert_eq!(waves("+a +b +c +d"), [0, 0, 0, 0]);
        assert_eq!(waves("+a +a +b +b +a"), [0, 1, 0, 1, 2]);
        assert!(waves("").is_empty());
    }

    /// Use of a key by an operation at a position in a batch.
    fn indexed_access<'a>(operation: &'a (usize, &'static str)) -> KeyAccess<'a> {
        access(operation.1)
    }

    #[test]
    fn waves_keep_all_operations_in_their_order() {
        // Positions in a batch whose other operations are on other shards.
        let operations = ["+a", "a", "+b", "c", "b"].into_iter().enumerate();
        let indexed = operations.map(|(index, operation)| (10 * index, operation));
        let split = split_into_waves(indexed.collect(), indexed_access);
        let indexes = |wave: &Vec<(usize, &'static str)>| -> Vec<usize> {
            wave.iter().map(|(index, _)| *index).collect()
        };
        let split: Vec<Vec<usize>> = split.iter().map(indexes).collect();
        assert_eq!(split, [vec![0, 20, 30], vec![10, 40]]);
        assert!(split_into_waves(Vec::new(), indexed_access).is_empty());
    }

    proptest! {
        /// In a wave, a key that occurs twice is only read; over the waves, the operations on a key
        /// keep their order; and no operation could be in an earlier wave.
        #[test]
        fn waves_keep_the_order_of_each_key(operations in vec((0_u8..5, any::<bool>()), 0..40)) {
            let keys: Vec<[u8; 1]> = operations.iter().map(|(key, _)| [*key]).collect();
            let accesses = keys.iter().zip(&operations);
            let waves = assign_waves(accesses.map(|(key, (_, is_write))| KeyAccess {
                key,
                is_write: *is_write,
            }));
            prop_assert_eq!(waves.len(), operations.len());
            for (later, (key, is_write)) in operations.iter().enumerate() {
                let mut earliest = 0;
                for (earlier, (other, other_is_write)) in operations[..later].iter().enumerate() {
                    if key != other {
                        continue;
                    }
                    if *is_write || *other_is_write {
                        prop_assert!(waves[earlier] < waves[later]);
                        earliest = earliest.max(waves[earlier] + 1);
                    } else {
                        prop_assert!(waves[earlier] <= waves[later]);
                        earliest = earliest.max(waves[earlier]);
                    }
                }
                prop_assert_eq!(waves[later], earliest);
            }
        }
    }
}
