//! Which operations have been placed.

/// A set of operations, by index. Nearly all below some index are in it and nearly none above,
/// so it is kept as the first one that is missing and the words from there on.
#[derive(Clone, Debug)]
pub(super) struct Places {
    words: Vec<u64>,
    /// All below are in.
    first_missing: usize,
    count: usize,
}

/// A set in the form that is kept: what is behind the first missing one, without empty words.
pub(super) type Packed = (usize, Box<[u64]>);

impl Places {
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

    pub(super) fn packed(&self) -> Packed {
        let words = &self.words[(self.first_missing / 64).min(self.words.len())..];
        let used = words.iter().rposition(|word| *word != 0);
        let words = &words[..used.map_or(0, |last| last + 1)];
        (self.first_missing, words.into())
    }

    /// All words, for sets that are compared with others.
    pub(super) fn words(&self) -> Box<[u64]> {
        self.words.as_slice().into()
    }

    /// Whether everything in `words` is in this set, too.
    pub(super) fn covers(&self, words: &[u64]) -> bool {
        words
            .iter()
            .zip(&self.words)
            .all(|(theirs, ours)| theirs & !ours == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn the_first_missing_one_moves_with_the_set() {
        let mut places = Places::new(130);
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
    fn a_set_covers_its_parts() {
        let (mut all, mut part) = (Places::new(100), Places::new(100));
        all.insert(1);
        all.insert(99);
        part.insert(99);
        assert!(all.covers(&part.words()) && !part.covers(&all.words()));
    }
}
