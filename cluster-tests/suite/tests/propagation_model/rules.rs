//! The rules of propagation, each as a switch, so that a test can show its necessity.

/// Treatment of the index entry of a local change that a merge overwrites before all peers have
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overwritten {
    /// The entry stays: the current record, of any origin, is sent in its place.
    SendWinner,
    /// The entry is removed: the winner's origin delivers the winner.
    DropEntry,
}

/// The watermark that is announced with position p.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watermark {
    /// The last version if p is the last sequence, else nothing.
    AtLastSequence,
    /// One less than the smallest version of index entries after p; the last version if there
    /// are none.
    BelowEntries,
    /// The last version, for any p.
    LastVersion,
}

/// The rules, all of them on in [`Rules::all`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A merge applies only if it begins at or before the receiver's cursor.
    pub merge_starts_at_cursor: bool,
    /// A merge applies only if it ends beyond the receiver's cursor.
    pub merge_ends_past_cursor: bool,
    /// See [`Overwritten`].
    pub overwritten: Overwritten,
    /// A record that loses against the existing one still moves the cursor.
    pub skipped_moves_cursor: bool,
    /// At equal version a tombstone wins over a value.
    pub tie_tombstone_wins: bool,
    /// An expired record becomes a tombstone of the same version.
    pub expiry_keeps_version: bool,
    /// An expired record keeps its index entry.
    pub expiry_keeps_entry: bool,
    /// A DELETE leaves a tombstone even if the key is absent.
    pub absent_delete_leaves_tombstone: bool,
    /// The last version is stored, and not derived from the existing records.
    pub last_version_stored: bool,
    /// Merges raise the last version.
    pub merge_raises_last_version: bool,
    /// See [`Watermark`].
    pub watermark: Watermark,
    /// An index entry is removed only when every peer has acknowledged it, not just one.
    pub entry_waits_for_every_peer: bool,
    /// A local tombstone stays while it has an index entry.
    pub tombstone_waits_for_entry: bool,
    /// A tombstone of another region stays until its origin has announced that it is stable.
    pub tombstone_waits_for_stable: bool,
    /// A tombstone stays until the watermarks of all other regions have reached its version.
    pub tombstone_waits_for_watermark: bool,
    /// Tombstones of an origin that was removed count as stable.
    pub removed_origin_is_stable: bool,
    /// Versions at or below their origin's watermark are ignored.
    pub guard: bool,
    /// Merges carry their origin's incarnation, which must be the one the receiver knows.
    pub incarnation_checked: bool,
    /// Acknowledgements also carry the incarnation of the region that gives them.
    pub ack_names_receiver: bool,
    /// The donor's view is taken only when every region retains changes for the newcomer.
    pub view_after_all_set_peers: bool,
    /// Changes are retained for a newcomer from the lowest position that a peer has acknowledged.
    pub newcomer_from_lowest_ack: bool,
    /// The newcomer's cursors are read before the bulk copy.
    pub cursors_before_copy: bool,
    /// A bulk copy carries tombstones too.
    pub copy_carries_tombstones: bool,
    /// A region that joins again is emptied before the bulk copy.
    pub newcomer_emptied: bool,
    /// A newcomer acknowledges nothing before its bulk copy has ended.
    pub ack_after_copy: bool,
    /// A newcomer announces watermark 0 until its bulk copy has ended.
    pub watermark_0_while_joining: bool,
    /// A newcomer ignores watermarks until its bulk copy has ended.
    pub joining_ignores_watermarks: bool,
    /// A newcomer collects no tombstone until its bulk copy has ended.
    pub joining_collects_nothing: bool,
    /// A newcomer raises its last version above those of all regions before it serves.
    pub raise_last_versions: bool,
    /// All survivors refuse a lost region's streams before they compare their cursors.
    pub fence_first: bool,
    /// Survivors reconcile before they remove a lost region.
    pub reconcile_first: bool,
    /// A survivor that is not ahead sends its records of the lost region, too: it may have them
    /// from a bulk copy.
    pub reconcile_both_ways: bool,
    /// The deletion of a bucket in progress also reaches a region that begins to join.
    pub drop_reaches_newcomer: bool,
    /// A dropped bucket refuses merged writes.
    pub marker_refuses_merges: bool,
}

impl Rules {
    /// Every rule.
    pub(crate) const fn all() -> Self {
        Self {
            merge_starts_at_cursor: true,
            merge_ends_past_cursor: true,
            overwritten: Overwritten::SendWinner,
            skipped_moves_cursor: true,
            tie_tombstone_wins: true,
            expiry_keeps_version: true,
            expiry_keeps_entry: true,
            absent_delete_leaves_tombstone: true,
            last_version_stored: true,
            merge_raises_last_version: true,
            watermark: Watermark::AtLastSequence,
            entry_waits_for_every_peer: true,
            tombstone_waits_for_entry: true,
            tombstone_waits_for_stable: true,
            tombstone_waits_for_watermark: true,
            removed_origin_is_stable: true,
            guard: true,
            incarnation_checked: true,
            ack_names_receiver: true,
            view_after_all_set_peers: true,
            newcomer_from_lowest_ack: true,
            cursors_before_copy: true,
            copy_carries_tombstones: true,
            newcomer_emptied: true,
            ack_after_copy: true,
            watermark_0_while_joining: true,
            joining_ignores_watermarks: true,
            joining_collects_nothing: true,
            raise_last_versions: true,
            fence_first: true,
            reconcile_first: true,
            reconcile_both_ways: true,
            drop_reaches_newcomer: true,
            marker_refuses_merges: true,
        }
    }
}
