//! Keys to request, in their order.

use crate::workload::Random;

/// Order in which keys are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    /// Uniformly random below `keys`, without end.
    Random {
        /// Number of keys.
        keys: u64,
    },
    /// `0, stride, 2 stride, ...`: `count` keys, each once.
    Each {
        /// Number of keys to request.
        count: u64,
        /// Distance between two of them.
        stride: u64,
    },
}

/// Share of the keys of one thread.
#[derive(Debug)]
pub(super) struct KeySource {
    order: KeyOrder,
    random: Random,
    next: u64,
    step: u64,
    failed: Vec<u64>,
    retries: Vec<u64>,
}

impl KeySource {
    /// Creates the share of thread `index` out of `threads`.
    pub(super) fn new(order: KeyOrder, index: u64, threads: u64, seed: u64) -> Self {
        let random = Random::new(seed.wrapping_add(index.wrapping_mul(0x1234_5678_9abc_def1)));
        Self {
            order,
            random,
            next: index,
            step: threads,
            failed: Vec::new(),
            retries: Vec::new(),
        }
    }

    /// Returns the next key with a seed for its value; `None` when all were returned.
    pub(super) fn next(&mut self) -> Option<(u64, u64)> {
        let seed = self.random.next();
        match self.order {
            KeyOrder::Random { keys } => Some((self.random.below(keys), seed)),
            KeyOrder::Each { count, stride } => {
                if let Some(key) = self.retries.pop() {
                    return Some((key, seed));
                }
                let index = self.next;
                (index < count).then(|| {
                    self.next += self.step;
                    (index * stride, seed)
                })
            }
        }
    }

    /// Reports that the request for `key` failed. Only [`KeyOrder::Each`] repeats it, and not
    /// before [`KeySource::retry_failed`].
    pub(super) fn record_failure(&mut self, key: u64) {
        match self.order {
            KeyOrder::Random { .. } => {}
            KeyOrder::Each { .. } => self.failed.push(key),
        }
    }

    /// Returns whether keys wait for another attempt.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty() || !self.retries.is_empty()
    }

    /// Makes [`KeySource::next`] return failed keys again.
    pub(super) fn retry_failed(&mut self) {
        self.retries.append(&mut self.failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_each_key_once() {
        let order = KeyOrder::Each {
            count: 10,
            stride: 3,
        };
        let mut keys = Vec::new();
        for index in 0..3 {
            let mut source = KeySource::new(order, index, 3, 1);
            while let Some((key, _)) = source.next() {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        assert_eq!(keys, (0..10).map(|index| index * 3).collect::<Vec<_>>());
    }

    #[test]
    fn a_failed_key_is_returned_again() {
        let mut source = KeySource::new(
            KeyOrder::Each {
                count: 1,
                stride: 1,
            },
            0,
            1,
            1,
        );
        assert_eq!(source.next().map(|(key, _)| key), Some(0));
        assert_eq!(source.next(), None);
        source.record_failure(0);
        assert_eq!(source.next(), None, "not at once");
        source.retry_failed();
        assert_eq!(source.next().map(|(key, _)| key), Some(0));
    }
}
