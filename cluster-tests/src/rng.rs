//! Random numbers that a seed gives back.
//!
//! What a seed decides must not change with a library's release, so this is SplitMix64, in full.

use std::ops::Range;
use std::time::Duration;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for one part of a run, so that what one part draws moves no other.
    pub fn branch(seed: u64, part: u64) -> Self {
        let mut mixed = Self(seed ^ part.wrapping_mul(0xd134_2543_de82_ef95));
        Self(mixed.draw())
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `range`, which isn't empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        // The bias is one in 2^64 divided by the range's length.
        range.start + self.draw() % (range.end - range.start).max(1)
    }

    /// An index of something that has `len` parts, at least one.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.within(0..len as u64)).unwrap_or(0)
    }

    /// A duration of `range`, in whole milliseconds.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// Whether something of this probability, per 1000, happens.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.within(0..1000) < chance
    }

    /// Puts parts in a random order.
    pub fn shuffle<T>(&mut self, parts: &mut [T]) {
        for end in (1..parts.len()).rev() {
            parts.swap(end, self.index(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut rng = Rng::new(1234567);
        // The first of the reference implementation's.
        assert_eq!(rng.draw(), 6_457_827_717_110_365_317);
        assert_eq!(rng.draw(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_all_of_it() {
        let mut rng = Rng::new(7);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[usize::try_from(rng.within(3..8)).unwrap() - 3] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }

    #[test]
    fn a_shuffle_keeps_the_parts() {
        let mut parts: Vec<u32> = (0..50).collect();
        Rng::new(1).shuffle(&mut parts);
        assert_ne!(parts, (0..50).collect::<Vec<_>>());
        parts.sort_unstable();
        assert_eq!(parts, (0..50).collect::<Vec<_>>());
    }
}
