//! Opens the log and the state of a data directory.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Env, Options, WriteBufferManager};

use super::durable_dir::{create_dir, sync_dir};
use super::error::StoreError;
use super::log::LogSettings;
use super::permissions::{InsecurePermissions, restrict_permissions};
use super::rebuild::rebuild;
use super::state_dirs::StateDirs;
use super::{SegmentLog, StateDb};

/// Time between two refills of what compactions may write, in microseconds; RocksDB tunes its rate
/// after a hundred of them.
const COMPACTION_REFILL_US: i64 = 10_000;
/// One in so many requests of a compaction is served before those of flushes.
const COMPACTION_FAIRNESS: i32 = 10;

/// Sizes of a node's storage, in bytes.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Size of the state's block cache, indexes and filters included.
    pub block_cache_bytes: usize,
    /// Size of a memtable, at which it is flushed.
    pub write_buffer_bytes: usize,
    /// Size of a log segment.
    pub log_segment_bytes: usize,
    /// Most bytes a second that flushes and compactions of the state write; 0: as many as they can.
    pub compaction_rate: usize,
}

impl EngineSettings {
    /// Returns the settings of the log. It holds what the state hasn't flushed, which grows to
    /// about twice its write buffer: as many spare segments are kept for reuse.
    fn log_settings(&self) -> LogSettings {
        let segment = self.log_segment_bytes.max(1);
        LogSettings {
            segment_bytes: segment as u64,
            max_spares: 2 * self.write_buffer_bytes / segment + 2,
        }
    }
}

/// Open storage of a node. Holds the data directory's lock.
pub struct Engine {
    /// Raft logs of all groups.
    pub log: SegmentLog,
    /// Applied state of all groups.
    pub state: StateDb,
    cache: Cache,
    _lock: File,
}

/// Error of opening a data directory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error(
        "data directory {} is in use by another process; stop it, or give this one a --data-dir of \
         its own",
        .0.display()
    )]
    Locked(PathBuf),
    /// It can't be created, locked or synced.
    #[error("{verb} data directory {}", .path.display())]
    Io {
        /// Action that failed.
        verb: &'static str,
        /// Path of the directory.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// Other users have access to it.
    #[error(transparent)]
    Permissions(#[from] InsecurePermissions),
    /// The log or the state can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Opens the storage in `dir`, which is created if it is missing.
    pub fn open(dir: &Path, settings: &EngineSettings) -> Result<Self, OpenError> {
        let failed = |verb| {
            move |source| OpenError::Io {
                verb,
                path: dir.to_owned(),
                source,
            }
        };
        create_dir(dir).map_err(failed("create"))?;
        let lock = File::create(dir.join("LOCK")).map_err(failed("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        restrict_permissions(dir)?;
        let env = Env::new().map_err(StoreError::on("create", "RocksDB environment"))?;
        let cache = Cache::new_lru_cache(settings.block_cache_bytes);
        let buffers = write_buffers(settings);
        let log = SegmentLog::open(dir, &dir.join("log"), settings.log_settings())?;
        let options = state_options(&env, &cache, &buffers, settings);
        let state = open_state(dir, options, (&cache, settings.block_cache_bytes))?;
        // RocksDB syncs the names in its directory, but not that of the directory itself.
        sync_dir(dir).map_err(failed("sync"))?;
        Ok(Self {
            log,
            state,
            cache,
            _lock: lock,
        })
    }

    /// Opens the storage in `dir` with a copy of its state, which shares the files that don't
    /// change: what is written to it isn't in the state that [`Self::open`] opens, which removes
    /// the copy. Blocks.
    pub fn open_with_state_copy(dir: &Path, settings: &EngineSettings) -> Result<Self, OpenError> {
        let Self {
            log,
            state,
            cache,
            _lock,
        } = Self::open(dir, settings)?;
        let copy = StateDirs::new(dir).copy();
        state.copy_to(&copy)?;
        drop(state);
        let env = Env::new().map_err(StoreError::on("create", "RocksDB environment"))?;
        let buffers = write_buffers(settings);
        let mut options = state_options(&env, &cache, &buffers, settings);
        // Most files stay shared, and no compaction can meet a damaged one.
        options.set_disable_auto_compactions(true);
        let state = StateDb::open(&copy, &copy, &options, (&cache, settings.block_cache_bytes))?;
        Ok(Self {
            log,
            state,
            cache,
            _lock,
        })
    }

    /// Removes the copy of the state in `dir`, which must not be open, if there is one. Blocks.
    pub fn remove_state_copy(dir: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(StateDirs::new(dir).copy()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Returns the size of the cached blocks, in bytes.
    pub fn cache_usage(&self) -> usize {
        self.cache.get_usage()
    }
}

/// Opens the state. One with damaged files is copied into new files, if possible.
fn open_state(
    dir: &Path,
    mut options: Options,
    cache: (&Cache, usize),
) -> Result<StateDb, StoreError> {
    let dirs = StateDirs::new(dir);
    dirs.finish_replacement()
        .map_err(StoreError::on("tidy", "state directory"))?;
    if !dirs.is_marked() {
        return StateDb::open(dir, &dirs.state(), &options, cache);
    }
    let compacting_options = options.clone();
    options.set_disable_auto_compactions(true);
    let damaged = StateDb::open(dir, &dirs.state(), &options, cache)?;
    rebuild(&dirs, damaged, |state| {
        StateDb::open(dir, state, &compacting_options, cache)
    })
}

/// Bounds the memory of all memtables.
fn write_buffers(settings: &EngineSettings) -> WriteBufferManager {
    WriteBufferManager::new_write_buffer_manager(3 * settings.write_buffer_bytes, false)
}

fn common_options(env: &Env, buffers: &WriteBufferManager) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_env(env);
    options.set_write_buffer_manager(buffers);
    options.set_max_background_jobs(4);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_open_files(1024);
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);
    table
}

/// Builds the options of the state. It has one column family, so that any flush is a prefix of
/// what was applied.
fn state_options(
    env: &Env,
    cache: &Cache,
    buffers: &WriteBufferManager,
    settings: &EngineSettings,
) -> Options {
    let mut options = common_options(env, buffers);
    options.set_write_buffer_size(settings.write_buffer_bytes);
    options.set_max_write_buffer_number(4);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_compression_type(DBCompressionType::Lz4);
    let mut table = table_options(cache);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    options.set_block_based_table_factory(&table);
    limit_compaction(&mut options, settings.compaction_rate);
    options
}

/// Bounds the bytes that flushes and compactions write per second. RocksDB tunes the limit between
/// a twentieth of `rate` and `rate` by demand: without a bound, a compaction takes the disk from
/// the log for seconds, in which its syncs are late and leaderships are lost. Under demand the
/// limit grows by a twentieth each second.
fn limit_compaction(options: &mut Options, rate: usize) {
    if let Ok(rate) = i64::try_from(rate)
        && rate > 0
    {
        options.set_auto_tuned_ratelimiter(rate, COMPACTION_REFILL_US, COMPACTION_FAIRNESS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RowBatch;
    use crate::store::keys::GroupId;

    const SETTINGS: EngineSettings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };

    fn write(engine: &Engine, row: &[u8]) {
        let mut batch = RowBatch::default();
        batch.put(row, row);
        engine.state.write(batch).unwrap();
    }

    fn has(engine: &Engine, row: &[u8]) -> bool {
        engine.state.get(row).unwrap().is_some()
    }

    #[test]
    fn what_is_written_to_a_copy_of_the_state_is_not_in_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let engine = Engine::open(dir, &SETTINGS).unwrap();
        write(&engine, b"flushed");
        engine.state.flush().unwrap();
        write(&engine, b"later");
        let vote = engine.log.set_vote(GroupId(1), b"vote", Box::new(|_| ()));
        vote.unwrap();
        drop(engine);
        for is_removed in [false, true] {
            let copy = Engine::open_with_state_copy(dir, &SETTINGS).unwrap();
            assert!(has(&copy, b"flushed") && has(&copy, b"later") && !has(&copy, b"new"));
            assert_eq!(copy.log.vote(GroupId(1)).unwrap(), &b"vote"[..]);
            write(&copy, b"new");
            copy.state.flush().unwrap();
            assert!(has(&copy, b"new"));
            assert!(matches!(
                Engine::open(dir, &SETTINGS),
                Err(OpenError::Locked(_))
            ));
            drop(copy);
            assert!(StateDirs::new(dir).copy().exists());
            if is_removed {
                Engine::remove_state_copy(dir).unwrap();
                Engine::remove_state_copy(dir).unwrap();
                assert!(!StateDirs::new(dir).copy().exists());
            }
        }
        let engine = Engine::open(dir, &SETTINGS).unwrap();
        assert!(has(&engine, b"flushed") && has(&engine, b"later") && !has(&engine, b"new"));
        assert!(!StateDirs::new(dir).copy().exists());
    }
}
