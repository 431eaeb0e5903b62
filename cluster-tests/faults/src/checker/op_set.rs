//! The set of operations that a search has placed.

/// A set of operations, by index. Nearly all indexes below some point are members and nearly none
/// above, so the compact form is the first missing index and the words from there on.
#[derive(Clone, Debug)]
pub(super) struct OpSet {
    words: Vec<u64>,
    /// All indexes below are members.
    first_missing: usize,
    count: usize,
}

/// Compact form for the memo: the first missing index and the words from there on, without empty
/// ones.
pub(super) type PackedOpSet = (usize, Box<[u64]>);

impl OpSet {
    pub(super) fn new(len: usize) -> Self {
        Self {
            words: vec![0; len / 64 + 1],
            first_missing: 0,
            count: 0,
        }
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.words[index / 64] >> (index % 64) & 1 == 1
    }

    pub(super) fn insert(&mut self, index: usize) {
        self.words[index / 64] |= 1 << (index % 64);
        self.count += 1;
        while self.first_missing < self.words.len() * 64 && self.contains(self.first_missing) {
            self.first_missing += 1;
        }
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.words[index / 64] &= !(1 << (index % 64));
        self.count -= 1;
        self.first_missing = self.first_missing.min(index);
    }

    pub(super) fn first_missing(&self) -> usize {
        self.first_missing
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn packed(&self) -> PackedOpSet {
        let words = &self.words[(self.first_missing / 64).min(self.words.len())..];
        let last_used = words.iter().rposition(|word| *word != 0);
        let words = &words[..last_used.map_or(0, |last| last + 1)];
        (self.first_missing, words.into())
    }

    /// Returns all words, for comparison with other sets.
    pub(super) fn words(&self) -> Box<[u64]> {
        self.words.as_slice().into()
    }

    /// Returns whether this set contains all members of `words`.
    pub(super) fn is_superset_of(&self, words: &[u64]) -> bool {
        words
            .iter()
            .zip(&self.words)
            .all(|(theirs, ours)| theirs & !ours == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::OpSet;

    #[test]
    fn the_first_missing_index_follows_the_set() {
        let mut places = OpSet::new(130);
        for index in (0..130).filter(|index| *index != 64) {
            places.insert(index);
        }
        assert_eq!((places.first_missing(), places.count()), (64, 129));
        let packed = places.packed();
        places.insert(64);
        assert_eq!(places.first_missing(), 130);
        places.remove(64);
        assert_eq!(places.packed(), packed);
        places.remove(3);
        assert_eq!(places.first_missing(), 3);
        assert_ne!(places.packed(), packed);
    }

    #[test]
    fn a_set_is_a_superset_of_its_subsets() {
        let (mut all, mut part) = (OpSet::new(100), OpSet::new(100));
        all.insert(1);
        all.insert(99);
        part.insert(99);
        assert!(all.is_superset_of(&part.words()) && !part.is_superset_of(&all.words()));
    }
}
