//! Row keys of the state: the only place where they are built and parsed.
//!
//! ```text
//! group u16 | generation u32 | kind u8 | kind's own part        (all numbers big-endian)
//! ```
//!
//! Group 0 is the metadata, 1 to N are the shards. Generation 0 holds the group's pointer alone,
//! which names the current generation: a snapshot is written to a new generation and becomes the
//! current one by that one row. Everything else, the applied position included, lies within a
//! generation, so that a crash can't mix two of them.
//!
//! The node's own rows sort after those of all groups: key ranges that are being removed, each
//! named by its start and its end.

use crate::types::{BucketId, Nanos, NodeId};

/// Number of a Raft group of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u16);

impl GroupId {
    /// Metadata group.
    pub const META: Self = Self(0);

    /// Returns the group of shard `number`, counted from 0.
    pub fn shard(number: u16) -> Self {
        Self(number + 1)
    }

    /// Returns the number of the shard; `None` for the metadata.
    pub fn shard_number(self) -> Option<u16> {
        self.0.checked_sub(1)
    }
}

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("meta"),
            shard => write!(f, "shard-{}", shard - 1),
        }
    }
}

/// Kind of a row, in the order in which they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RowKind {
    /// The group's pointer to its current generation.
    Pointer = 0x00,
    /// The applied position.
    Applied = 0x01,
    /// The group's header.
    Header = 0x02,
    /// The group's members.
    Membership = 0x03,
    /// A bucket's state in a shard.
    Bucket = 0x10,
    /// A key's record.
    Record = 0x20,
    /// Expiry index: time, bucket, key.
    Expiry = 0x30,
    /// Change index: sequence.
    Change = 0x40,
    /// Tombstone index: time of the version, bucket, key.
    Tombstone = 0x48,
    /// An account.
    Account = 0x50,
    /// A bucket's metadata.
    BucketMeta = 0x51,
    /// A plan's limits.
    Plan = 0x52,
    /// A node, by [`node_id`].
    Node = 0x53,
    /// The nodes of a shard, by [`placement_id`].
    Placement = 0x54,
}

/// Prefix of the node's own rows: a group number after all groups.
const NODE_ROWS_PREFIX: [u8; 2] = [0xff; 2];

/// Builds the key of the row that marks a key range as being removed.
pub(crate) fn removal_key(from: &[u8], to: &[u8]) -> Vec<u8> {
    let length = u32::try_from(from.len()).unwrap_or(u32::MAX);
    [&NODE_ROWS_PREFIX[..], &length.to_be_bytes(), from, to].concat()
}

/// Returns the start and the end (exclusive) of all rows of [`removal_key`].
pub(crate) fn removal_keys() -> (Vec<u8>, Vec<u8>) {
    (NODE_ROWS_PREFIX.to_vec(), [0xff; 16].to_vec())
}

/// Parses the key range from a row key of [`removal_key`].
pub(crate) fn parse_removal_key(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, range) = key.strip_prefix(&NODE_ROWS_PREFIX)?.split_first_chunk()?;
    range.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// Length of group, generation and kind, in bytes.
const PREFIX_BYTES: usize = 7;
const BUCKET_BYTES: usize = BucketId::LEN;

/// Row keys of one generation of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    group: GroupId,
    generation: u32,
}

impl Rows {
    /// Creates row keys of `generation` of `group`.
    pub const fn new(group: GroupId, generation: u32) -> Self {
        Self { group, generation }
    }

    /// Returns the generation.
    pub fn generation(self) -> u32 {
        self.generation
    }

    /// Returns the group.
    pub fn group(self) -> GroupId {
        self.group
    }

    fn prefix(self, kind: RowKind, extra: usize) -> Vec<u8> {
        let mut key = Vec::with_capacity(PREFIX_BYTES + extra);
        key.extend_from_slice(&self.group.0.to_be_bytes());
        key.extend_from_slice(&self.generation.to_be_bytes());
        key.push(kind as u8);
        key
    }

    /// Builds the key of the only row of its kind.
    pub fn single(self, kind: RowKind) -> Vec<u8> {
        self.prefix(kind, 0)
    }

    /// Builds the key of the row with an ID.
    pub fn by_id(self, kind: RowKind, id: &[u8]) -> Vec<u8> {
        let mut key = self.prefix(kind, id.len());
        key.extend_from_slice(id);
        key
    }

    /// Builds the key of a record; with an empty name, the start of the bucket's records.
    pub fn record(self, bucket: &[u8], name: &[u8]) -> Vec<u8> {
        let mut key = self.prefix(RowKind::Record, bucket.len() + name.len());
        key.extend_from_slice(bucket);
        key.extend_from_slice(name);
        key
    }

    /// Builds the row key of a key in the expiry index.
    pub fn expiry(self, at: Nanos, bucket: &[u8], name: &[u8]) -> Vec<u8> {
        self.time_indexed(RowKind::Expiry, at, bucket, name)
    }

    /// Builds the row key of a key in the tombstone index.
    pub fn tombstone(self, at: Nanos, bucket: &[u8], name: &[u8]) -> Vec<u8> {
        self.time_indexed(RowKind::Tombstone, at, bucket, name)
    }

    fn time_indexed(self, kind: RowKind, at: Nanos, bucket: &[u8], name: &[u8]) -> Vec<u8> {
        let mut key = self.prefix(kind, 8 + bucket.len() + name.len());
        key.extend_from_slice(&at.to_be_bytes());
        key.extend_from_slice(bucket);
        key.extend_from_slice(name);
        key
    }

    /// Builds the row key of a sequence in the change index.
    pub fn change(self, sequence: u64) -> Vec<u8> {
        let mut key = self.prefix(RowKind::Change, 8);
        key.extend_from_slice(&sequence.to_be_bytes());
        key
    }

    /// Returns the start and the end (exclusive) of all rows of a kind.
    pub fn all_of_kind(self, kind: RowKind) -> (Vec<u8>, Vec<u8>) {
        let from = self.single(kind);
        let to = prefix_end(&from);
        (from, to)
    }

    /// Returns the start and the end (exclusive) of this generation's rows.
    pub fn bounds(self) -> (Vec<u8>, Vec<u8>) {
        let mut from = self.prefix(RowKind::Pointer, 0);
        from.truncate(PREFIX_BYTES - 1);
        let to = prefix_end(&from);
        (from, to)
    }
}

/// Returns the first key after all keys that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Strips group and generation from a row key, as snapshots carry it.
pub(crate) fn to_portable(key: &[u8]) -> Option<&[u8]> {
    key.get(PREFIX_BYTES - 1..)
}

/// Builds the row key under `rows` from one that a snapshot carries.
pub(crate) fn from_portable(rows: Rows, portable: &[u8]) -> Vec<u8> {
    let mut key = rows.prefix(RowKind::Pointer, portable.len());
    key.truncate(PREFIX_BYTES - 1);
    key.extend_from_slice(portable);
    key
}

/// Returns the part of a row key after its kind.
pub(crate) fn id_of(key: &[u8]) -> Option<&[u8]> {
    key.get(PREFIX_BYTES..)
}

/// Parses the group from a row key.
pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
    let (group, _) = key.split_first_chunk()?;
    Some(GroupId(u16::from_be_bytes(*group)))
}

/// Parses the generation from a row key of any group.
pub(crate) fn generation_of(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(2..6)?.try_into().ok()?))
}

/// Builds the ID of a node's row: the node, big-endian.
pub(crate) fn node_id(node: NodeId) -> [u8; 8] {
    u64::from(node).to_be_bytes()
}

/// Parses the node from a row's ID.
pub(crate) fn parse_node_id(id: &[u8]) -> Option<NodeId> {
    Some(u64::from_be_bytes(id.try_into().ok()?).into())
}

/// Builds the ID of a placement's row: region and shard, big-endian.
pub(crate) fn placement_id(region: u32, shard: u16) -> [u8; 6] {
    let ([a, b, c, d], [e, f]) = (region.to_be_bytes(), shard.to_be_bytes());
    [a, b, c, d, e, f]
}

/// Parses region and shard from a row's ID.
pub(crate) fn parse_placement_id(id: &[u8]) -> Option<(u32, u16)> {
    let (region, shard) = id.split_at_checked(4)?;
    let region = u32::from_be_bytes(region.try_into().ok()?);
    Some((region, u16::from_be_bytes(shard.try_into().ok()?)))
}

/// Parses the sequence from a row key of the change index.
pub(crate) fn sequence_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(id_of(key)?.try_into().ok()?))
}

/// Parses bucket and key from a record's row key.
pub(crate) fn split_record(key: &[u8]) -> Option<(&[u8], &[u8])> {
    id_of(key)?.split_at_checked(BUCKET_BYTES)
}

/// Parses time, bucket and key from a row key of the expiry or the tombstone index.
pub(crate) fn split_time_indexed(key: &[u8]) -> Option<(Nanos, &[u8], &[u8])> {
    let (at, rest) = id_of(key)?.split_at_checked(8)?;
    let (bucket, name) = rest.split_at_checked(BUCKET_BYTES)?;
    Some((Nanos::from_be_bytes(at.try_into().ok()?), bucket, name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &[u8; 14] = b"aABCDEFGHIJKLM";

    proptest! {
        #[test]
        fn record_keys_round_trip_and_keep_their_order(
            a in proptest::collection::vec(any::<u8>(), 0..80),
            b in proptest::collection::vec(any::<u8>(), 0..80),
            generation: u32,
        ) {
            let rows = Rows::new(GroupId::shard(3), generation);
            let (row_a, row_b) = (rows.record(ID, &a), rows.record(ID, &b));
            prop_assert_eq!(row_a.cmp(&row_b), a.cmp(&b));
            prop_assert_eq!(split_record(&row_a), Some((&ID[..], &a[..])));
            prop_assert_eq!(generation_of(&row_a), Some(generation));
        }

        #[test]
        fn expiry_keys_round_trip_and_are_ordered_by_time(at: u64, later: u64, name in ".{0,20}") {
            let rows = Rows::new(GroupId::shard(0), 1);
            let row = rows.expiry(at, ID, name.as_bytes());
            prop_assert_eq!(split_time_indexed(&row), Some((at, &ID[..], name.as_bytes())));
            if at < later {
                prop_assert!(row < rows.expiry(later, ID, b""));
            }
        }

        #[test]
        fn bounds_contain_exactly_one_generation(
            group: u16,
            generation in 0..u32::MAX,
            name in ".{0,9}",
        ) {
            let rows = Rows::new(GroupId(group), generation);
            let (from, to) = rows.bounds();
            let row = rows.record(ID, name.as_bytes());
            prop_assert!(from <= row && row < to);
            let next = Rows::new(GroupId(group), generation + 1).single(RowKind::Pointer);
            prop_assert!(next >= to);
        }

        #[test]
        fn ids_of_nodes_and_placements_round_trip_in_order(
            a: (u32, u16),
            b: (u32, u16),
            node: u64,
        ) {
            let node = NodeId::from(node);
            let (id_a, id_b) = (placement_id(a.0, a.1), placement_id(b.0, b.1));
            prop_assert_eq!(id_a.cmp(&id_b), a.cmp(&b));
            prop_assert_eq!(parse_placement_id(&id_a), Some(a));
            prop_assert_eq!(parse_node_id(&node_id(node)), Some(node));
        }

        #[test]
        fn a_portable_key_moves_between_generations(generation: u32, name in ".{0,20}") {
            let old = Rows::new(GroupId::shard(1), 7).record(ID, name.as_bytes());
            let new = Rows::new(GroupId::shard(1), generation);
            let moved = from_portable(new, to_portable(&old).unwrap());
            prop_assert_eq!(moved, new.record(ID, name.as_bytes()));
        }
    }

    #[test]
    fn a_removal_key_names_its_range_and_sorts_after_all_groups() {
        let rows = Rows::new(GroupId::shard(63), 7);
        let (from, to) = rows.bounds();
        let row = removal_key(&from, &to);
        assert_eq!(parse_removal_key(&row), Some((&from[..], &to[..])));
        assert_eq!(parse_removal_key(&from), None);
        assert_eq!(parse_removal_key(&row[..7]), None);
        let (first, end) = removal_keys();
        assert!(to < first && first < row && row < end);
    }

    #[test]
    fn the_end_of_a_prefix_carries() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(&[1, 0xff, 0xff]), [2]);
    }

    #[test]
    fn an_id_of_a_wrong_length_is_refused() {
        assert_eq!(parse_node_id(&[0; 7]), None);
        assert_eq!(parse_placement_id(&[0; 3]), None);
        assert_eq!(parse_placement_id(&[0; 7]), None);
    }
}
