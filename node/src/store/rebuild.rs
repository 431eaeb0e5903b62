//! Rebuilds a state with damaged files.
//!
//! Once damage was met, the files that contain it are kept: their other rows are needed, and a
//! compaction, which reads all of a file, would fail at the damage, and every write after it. So
//! from the first damage on nothing is compacted; a marker file in the data directory extends that
//! over a restart (see `state_dirs`). Meanwhile damaged groups are replaced by copies from other
//! nodes (see `raft::repair`). At the next start all groups are copied into new files, which
//! succeeds once no row in use is damaged.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use cloudkv_proto::v1 as pb;
use prost::Message;

use super::error::StoreError;
use super::keys::{self, GroupId, RowKind, Rows};
use super::scan::Scan;
use super::state::{RowBatch, StateDb};
use super::state_dirs::StateDirs;

/// Size of a write batch while copying, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Rebuilds the state, if no row in use is damaged: blocks while it is copied. `open` opens a state
/// in a directory. Returns the new state, or the old one if it couldn't be copied.
pub(super) fn rebuild(
    dirs: &StateDirs,
    old: StateDb,
    open: impl Fn(&Path) -> Result<StateDb, StoreError>,
) -> Result<StateDb, StoreError> {
    tracing::warn!("rebuilding damaged state");
    let failed = |verb| StoreError::on(verb, "state directory");
    let copied = open(&dirs.new_state()).and_then(|new| copy(&old, &new));
    match copied {
        Ok(rows) => {
            drop(old);
            dirs.replace().map_err(failed("replace"))?;
            tracing::info!(rows, "damaged state rebuilt");
            open(&dirs.state())
        }
        Err(error) => {
            // Damaged groups were recorded, and are repaired from other nodes, where there are any.
            tracing::warn!(%error, "rebuilding damaged state failed, retrying at the next start");
            if dirs.new_state().exists() {
                fs::remove_dir_all(dirs.new_state()).map_err(failed("remove"))?;
            }
            Ok(old)
        }
    }
}

/// Copies the current rows of all groups, and makes them durable. Returns their number.
fn copy(old: &StateDb, new: &StateDb) -> Result<u64, StoreError> {
    let mut rows = 0;
    for group in groups(old)? {
        let pointer_row = Rows::new(group, 0).single(RowKind::Pointer);
        let pointer = old.get(&pointer_row)?;
        let mut batch = RowBatch::default();
        let mut generation = 1;
        if let Some(pointer) = pointer {
            batch.put(&pointer_row, &pointer);
            let pointer = pb::GroupPointer::decode(pointer);
            generation = pointer
                .map_err(StoreError::on(
                    "decode",
                    "pointer to the current generation",
                ))?
                .generation;
        }
        let (first, end) = Rows::new(group, generation).bounds();
        let scan = Scan {
            from: first,
            to: end,
            fill_cache: false,
        };
        old.try_scan(scan, |key, value| {
            batch.put(key, value);
            rows += 1;
            if batch.bytes() > BATCH_BYTES {
                new.write(std::mem::take(&mut batch))?;
            }
            Ok::<_, StoreError>(ControlFlow::Continue(()))
        })?;
        new.write(batch)?;
    }
    new.flush()?;
    Ok(rows)
}

/// Returns all groups that may have rows. Reads no block that may be damaged.
fn groups(state: &StateDb) -> Result<impl Iterator<Item = GroupId>, StoreError> {
    let files = state.db().live_files();
    let files = files.map_err(StoreError::on("list", "state files"))?;
    let keys = files
        .iter()
        .flat_map(|file| [&file.start_key, &file.end_key]);
    let groups: Vec<u16> = keys
        .flatten()
        .filter_map(|key| keys::group_of(key))
        .map(|group| group.0)
        .collect();
    let first = groups.iter().min().copied().unwrap_or(0);
    let end = groups.iter().max().map_or(0, |last| last.saturating_add(1));
    Ok((first..end).map(GroupId))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::store::testing::{LevelFixture, small_engine};

    const ROWS: Rows = Rows::new(GroupId(1), 1);
    const BUCKET: &[u8; 14] = b"aABCDEFGHIJKLM";

    fn row(number: u32) -> Vec<u8> {
        ROWS.record(BUCKET, number.to_string().as_bytes())
    }

    /// Flips a bit in the first block of each of the state's files.
    fn damage(dir: &Path) {
        for file in fs::read_dir(dir.join("state")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|it| it == "sst") {
                let file = File::options().read(true).write(true).open(path).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, 20).unwrap();
                file.write_all_at(&[byte[0] ^ 4], 20).unwrap();
            }
        }
    }

    fn write(state: &StateDb, numbers: std::ops::Range<u32>, value: &[u8]) {
        let mut batch = RowBatch::default();
        for number in numbers {
            batch.put(row(number), value);
        }
        state.write(batch).unwrap();
    }

    #[test]
    fn damage_is_recorded_and_cleared_once_the_damaged_rows_are_not_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small_engine(dir.path());
        write(&engine.state, 0..2000, &[7; 100]);
        LevelFixture::new(&engine.state).compact_to_last_level();
        drop(engine);
        damage(dir.path());
        let dirs = StateDirs::new(dir.path());

        let engine = small_engine(dir.path());
        let damage = engine.state.damage_of(GroupId(1));
        assert!(!damage.is_damaged() && !dirs.is_marked());
        let error = (0..2000).find_map(|number| engine.state.get(&row(number)).err());
        assert!(error.unwrap().is_damage());
        assert!(damage.is_damaged() && dirs.is_marked());
        assert!(!engine.state.damage_of(GroupId(2)).is_damaged());
        // Writes continue, and new files are not compacted with the damaged ones.
        for round in 0..8 {
            write(&engine.state, 2000..3000, &[round; 100]);
            engine.state.flush().unwrap();
        }
        drop(engine);

        // Rows in use are still damaged: the files are kept, and undamaged rows can be read.
        let engine = small_engine(dir.path());
        assert!(dirs.is_marked());
        assert!(engine.state.damage_of(GroupId(1)).is_damaged());
        assert_eq!(engine.state.get(&row(2500)).unwrap().unwrap(), vec![7; 100]);
        // Another generation replaces the damaged one.
        let mut batch = RowBatch::default();
        let next = Rows::new(GroupId(1), 2);
        batch.put(next.record(BUCKET, b"x"), b"whole");
        let pointer = pb::GroupPointer { generation: 2 };
        batch.put(
            Rows::new(GroupId(1), 0).single(RowKind::Pointer),
            pointer.encode_to_vec(),
        );
        engine.state.write(batch).unwrap();
        engine.state.remove_ranges(&[ROWS.bounds()]).unwrap();
        drop(engine);

        let engine = small_engine(dir.path());
        assert!(!dirs.is_marked());
        let kept = engine.state.get(&next.record(BUCKET, b"x")).unwrap();
        assert_eq!(kept.unwrap(), &b"whole"[..]);
        assert_eq!(engine.state.get(&row(2500)).unwrap(), None);
        assert!(!dirs.old_state().exists() && !dirs.new_state().exists());
    }

    #[test]
    fn a_replacement_interrupted_by_a_crash_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small_engine(dir.path());
        write(&engine.state, 0..10, b"new");
        drop(engine);
        let dirs = StateDirs::new(dir.path());
        dirs.set_mark("damaged").unwrap();
        // Between the two renames.
        fs::rename(dirs.state(), dirs.new_state()).unwrap();
        fs::create_dir(dirs.old_state()).unwrap();
        let engine = small_engine(dir.path());
        assert_eq!(engine.state.get(&row(1)).unwrap().unwrap(), &b"new"[..]);
        assert!(!dirs.is_marked() && !dirs.old_state().exists());
        drop(engine);
        // Before them: an incomplete copy.
        fs::create_dir(dirs.new_state()).unwrap();
        let engine = small_engine(dir.path());
        assert_eq!(engine.state.get(&row(1)).unwrap().unwrap(), &b"new"[..]);
        assert!(!dirs.new_state().exists());
    }
}
