//! State databases with a certain layout of files, for tests.

use super::state::{RowBatch, StateDb};
use super::{Engine, EngineSettings};

/// Opens an engine with small buffers.
pub(crate) fn small_engine(dir: &std::path::Path) -> Engine {
    let settings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };
    Engine::open(dir, &settings).unwrap()
}

/// Database with small files on several levels.
pub(crate) struct LevelFixture<'a>(&'a StateDb);

impl<'a> LevelFixture<'a> {
    /// Configures the database to write small files from now on.
    pub(crate) fn new(state: &'a StateDb) -> Self {
        let small = [
            ("max_bytes_for_level_base", "16384"),
            ("target_file_size_base", "16384"),
            ("level0_file_num_compaction_trigger", "1000"),
        ];
        state.db().set_options(&small).unwrap();
        Self(state)
    }

    /// Writes rows into files of the last level.
    pub(crate) fn write_to_last_level<'k>(&self, rows: impl Iterator<Item = &'k [u8]>) {
        let mut batch = RowBatch::default();
        for row in rows {
            batch.put(row, [7; 100]);
        }
        self.0.write(batch).unwrap();
        self.compact_to_last_level();
    }

    /// Compacts everything into files of the last level.
    pub(crate) fn compact_to_last_level(&self) {
        self.0.flush().unwrap();
        self.0.db().compact_range(None::<&[u8]>, None::<&[u8]>);
        assert_eq!(self.file_count(0), 0);
    }

    /// Flushes the memtable, and compacts it into a file above those of the last level.
    pub(crate) fn flush_above_last_level(&self) {
        let trigger = |files| [("level0_file_num_compaction_trigger", files)];
        self.0.flush().unwrap();
        assert_eq!(self.file_count(0), 1);
        self.0.db().set_options(&trigger("1")).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while self.file_count(0) > 0 {
            assert!(
                std::time::Instant::now() < deadline,
                "timed out waiting for a compaction"
            );
            std::thread::yield_now();
        }
        self.0.db().set_options(&trigger("1000")).unwrap();
        let above: u64 = (1..6).map(|level| self.file_count(level)).sum();
        assert_ne!(
            above, 0,
            "no file lies between the first level and the last"
        );
    }

    fn file_count(&self, level: u32) -> u64 {
        let property = format!("rocksdb.num-files-at-level{level}");
        let value = self.0.db().property_value(property.as_str());
        value.unwrap().unwrap().parse().unwrap()
    }
}
