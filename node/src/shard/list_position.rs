//! Positions in lists, behind which a list goes on in its order.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::store::keys;
use crate::types::{ListEntry, ListQuery};

/// Position in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListPosition {
    /// Behind a key, which need not exist.
    Key(Bytes),
    /// Behind all keys with a common prefix.
    Prefix(Bytes),
}

impl ListPosition {
    /// Returns the position behind an entry.
    pub fn behind(entry: &ListEntry) -> Self {
        match entry {
            ListEntry::Key(info) => Self::Key(info.key.clone()),
            ListEntry::Prefix(prefix) => Self::Prefix(prefix.clone()),
        }
    }

    /// Narrows a query to the keys behind this position, in the query's order.
    pub fn narrow(&self, query: &mut ListQuery) {
        if query.is_reverse {
            let name = self.name();
            if query.to.as_ref().is_none_or(|to| name < to) {
                query.to = Some(name.clone());
            }
            return;
        }
        match self.end() {
            Some(end) if query.from.as_ref().is_none_or(|from| end > *from) => {
                query.from = Some(end);
            }
            Some(_) => {}
            None => query.to = Some(Bytes::new()),
        }
    }

    /// Compares two positions in the order of a list.
    pub fn compare(&self, other: &Self, is_reverse: bool) -> Ordering {
        if is_reverse {
            return other.name().cmp(self.name());
        }
        match (self.end(), other.end()) {
            (Some(ours), Some(theirs)) => ours.cmp(&theirs),
            (ours, theirs) => ours.is_none().cmp(&theirs.is_none()),
        }
    }

    /// Returns whether all keys that come before an entry come before this position, too.
    pub fn reaches(&self, entry: &ListEntry, is_reverse: bool) -> bool {
        if is_reverse {
            let end = Self::behind(entry).end();
            end.is_none_or(|end| *self.name() <= end)
        } else {
            self.end().is_none_or(|end| *entry.name() <= end)
        }
    }

    /// Returns the key or prefix: in descending order, only lower keys follow.
    fn name(&self) -> &Bytes {
        match self {
            Self::Key(name) | Self::Prefix(name) => name,
        }
    }

    /// Returns the lowest key that follows in ascending order; `None` if none can follow.
    fn end(&self) -> Option<Bytes> {
        match self {
            // The first key behind a key is the same with a zero byte.
            Self::Key(key) => Some(Bytes::from([&key[..], b"\0"].concat())),
            Self::Prefix(prefix) => {
                let end = keys::prefix_end(prefix);
                (!end.is_empty()).then(|| Bytes::from(end))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> ListPosition {
        ListPosition::Key(Bytes::from_static(name.as_bytes()))
    }

    fn prefix(name: &'static [u8]) -> ListPosition {
        ListPosition::Prefix(Bytes::from_static(name))
    }

    fn narrowed(position: &ListPosition, query: &ListQuery) -> (Option<Bytes>, Option<Bytes>) {
        let mut query = query.clone();
        position.narrow(&mut query);
        (query.from, query.to)
    }

    #[test]
    fn a_query_is_narrowed_and_never_widened() {
        let bytes = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let up = ListQuery::default();
        assert_eq!(narrowed(&key("a"), &up), (bytes("a\0"), None));
        assert_eq!(narrowed(&prefix(b"a/"), &up), (bytes("a0"), None));
        assert_eq!(narrowed(&prefix(b"\xff"), &up), (None, bytes("")));
        let bounded = ListQuery {
            from: bytes("b"),
            to: bytes("y"),
            ..ListQuery::default()
        };
        let unchanged = (bytes("b"), bytes("y"));
        assert_eq!(narrowed(&key("a"), &bounded), unchanged);
        let down = ListQuery {
            is_reverse: true,
            ..bounded
        };
        assert_eq!(narrowed(&key("z"), &down), unchanged);
        assert_eq!(narrowed(&key("x"), &down), (bytes("b"), bytes("x")));
        assert_eq!(narrowed(&prefix(b"x/"), &down), (bytes("b"), bytes("x/")));
    }

    #[test]
    fn positions_are_ordered_as_what_follows_them() {
        let ascending = [
            key("a"),
            key("a/"),
            key("a/b"),
            prefix(b"a/"),
            key("b"),
            prefix(b"\xff"),
        ];
        let descending = [key("b"), key("a/b"), prefix(b"a/"), key("a")];
        for (positions, is_reverse) in [(&ascending[..], false), (&descending[..], true)] {
            for (index, one) in positions.iter().enumerate() {
                for (other_index, other) in positions.iter().enumerate() {
                    let order = one.compare(other, is_reverse);
                    assert_eq!(order, index.cmp(&other_index), "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_position_reaches_the_entries_before_which_all_is_known() {
        let entry = |position: &ListPosition| match position {
            ListPosition::Key(key) => ListEntry::Key(crate::types::KeyInfo {
                key: key.clone(),
                ..Default::default()
            }),
            ListPosition::Prefix(prefix) => ListEntry::Prefix(prefix.clone()),
        };
        let reaches = |one: &ListPosition, other: ListPosition, is_reverse: bool| {
            one.reaches(&entry(&other), is_reverse)
        };
        assert!(reaches(&key("b"), key("a"), false) && !reaches(&key("a"), key("b"), false));
        assert!(reaches(&key("b"), key("c"), true) && !reaches(&key("c"), key("b"), true));
        // Keys below a common prefix don't come before it.
        for is_reverse in [false, true] {
            assert!(reaches(&key("a/5"), prefix(b"a/"), is_reverse));
            assert!(reaches(&prefix(b"a/"), prefix(b"a/"), is_reverse));
        }
        assert!(!reaches(&key("Z"), prefix(b"a/"), false));
        assert!(!reaches(&key("b"), prefix(b"a/"), true));
    }
}
