//! Reproducible random numbers: a seed always yields the same sequence.
//!
//! The sequence of a seed must not change with a library's release, so this is SplitMix64, in full.

use std::ops::Range;
use std::time::Duration;

/// A seeded stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Creates the stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Creates an independent stream for one part of a run, so that draws of one part don't shift
    /// those of another.
    pub fn derived(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        Self(mixed.next_u64())
    }

    /// Returns the next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number of `range`, which must not be empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        // The modulo bias is the range's length divided by 2^64.
        range.start + self.next_u64() % (range.end - range.start).max(1)
    }

    /// Returns a random index into a collection of `len` elements, at least one.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.range(0..len as u64)).unwrap_or(0)
    }

    /// Returns a random duration of `range`, in whole milliseconds.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.range(range))
    }

    /// Returns true with this probability, in permille.
    pub fn chance_permille(&mut self, chance: u64) -> bool {
        self.range(0..1000) < chance
    }

    /// Shuffles `items` (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.index(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn a_seed_always_yields_the_same_numbers() {
        let mut rng = Rng::new(1234567);
        // The first outputs of the reference implementation.
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_stay_in_their_range_and_cover_it() {
        let mut rng = Rng::new(7);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[usize::try_from(rng.range(3..8)).unwrap() - 3] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }

    #[test]
    fn a_shuffle_keeps_the_items() {
        let mut items: Vec<u32> = (0..50).collect();
        Rng::new(1).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
