//! Imports into a model of a bucket, with errors and with other clients that write.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::service::{DiskShortage, Expiry, Version, WriteReceipt};

/// Time of the model's first version: later than those of all lines.
const FIRST_TIME: u64 = 1 << 40;

/// What happens to the next write of a key.
#[derive(Debug)]
enum Fault {
    /// It fails, and isn't done.
    Fails(KeyError),
    /// It is done, and its outcome is unknown.
    IsUncertain,
    /// Another client writes the key just before.
    IsOvertaken,
}

/// A bucket: versions and values of its keys.
#[derive(Debug, Default)]
struct Model {
    keys: BTreeMap<Bytes, (Version, Bytes)>,
    /// Versions of deletions that are remembered.
    deleted: BTreeMap<Bytes, Version>,
    writes: u64,
    faults: HashMap<Bytes, VecDeque<Fault>>,
    /// Number of calls of the store.
    calls: usize,
}

impl Model {
    fn put(&mut self, key: &Bytes, value: Bytes) -> WriteReceipt {
        self.writes += 1;
        let version = Version {
            time: FIRST_TIME + self.writes,
            region: 1,
        };
        self.deleted.remove(key);
        let before = self.keys.insert(key.clone(), (version, value));
        WriteReceipt {
            version,
            existed: before.is_some(),
            expires_at: None,
        }
    }

    fn delete(&mut self, key: &Bytes) -> WriteReceipt {
        self.writes += 1;
        let version = Version {
            time: FIRST_TIME + self.writes,
            region: 1,
        };
        self.deleted.insert(key.clone(), version);
        WriteReceipt {
            version,
            existed: self.keys.remove(key).is_some(),
            expires_at: None,
        }
    }

    fn write(&mut self, key: &Bytes, write: KeyWrite) -> Result<WriteReceipt, KeyError> {
        let (precondition, value) = match write {
            KeyWrite::Put(put) => (put.precondition, Some(put.value)),
            KeyWrite::Delete(precondition) => (precondition, None),
            KeyWrite::Touch(touch) => panic!("{touch:?}"),
        };
        let fault = self.faults.get_mut(key).and_then(VecDeque::pop_front);
        let is_uncertain = matches!(fault, Some(Fault::IsUncertain));
        match fault {
            Some(Fault::Fails(error)) => return Err(error),
            Some(Fault::IsOvertaken) => {
                self.put(key, Bytes::from("other"));
            }
            Some(Fault::IsUncertain) | None => {}
        }
        let current = self.keys.get(key).map(|(version, _)| *version);
        let holds = match precondition {
            Precondition::None => true,
            Precondition::Absent => current.is_none(),
            Precondition::Versions(any) => current.is_some_and(|current| any.contains(&current)),
            other => panic!("{other:?}"),
        };
        if !holds {
            return Err(KeyError::PreconditionFailed);
        }
        let receipt = match value {
            Some(value) => self.put(key, value),
            None => self.delete(key),
        };
        if is_uncertain {
            return Err(KeyError::UnknownOutcome);
        }
        Ok(receipt)
    }

    fn execute(&mut self, operation: BatchOperation) -> BatchOutcome {
        match operation {
            BatchOperation::Get { key, precondition } => {
                assert_eq!(precondition, Precondition::Absent);
                match self.keys.get(&key) {
                    Some((version, _)) => BatchOutcome::NotModified(*version),
                    None => match self.deleted.get(&key) {
                        Some(version) => BatchOutcome::Deleted(*version),
                        None => BatchOutcome::Missing,
                    },
                }
            }
            BatchOperation::Write { key, write } => match self.write(&key, write) {
                Ok(receipt) => BatchOutcome::Written(receipt),
                Err(error) => BatchOutcome::Failed(error),
            },
        }
    }

    fn fail(&mut self, key: &'static str, fault: Fault) {
        let faults = self.faults.entry(Bytes::from(key)).or_default();
        faults.push_back(fault);
    }

    fn value(&self, key: &'static str) -> Option<&[u8]> {
        let found = self.keys.get(key.as_bytes());
        found.map(|(_, value)| &value[..])
    }
}

#[derive(Clone, Default)]
struct ModelStore(Arc<Mutex<Model>>);

impl ImportStore for ModelStore {
    async fn execute(&self, operations: Vec<BatchOperation>) -> Vec<BatchOutcome> {
        let mut model = self.0.lock();
        model.calls += 1;
        let operations = operations.into_iter();
        operations
            .map(|operation| model.execute(operation))
            .collect()
    }
}

/// Tries again without a pause until the model's faults are used up.
const PATIENT: RetryPolicy = RetryPolicy {
    time: Duration::from_secs(600),
    backoff: (Duration::ZERO, Duration::ZERO),
};

/// Tries nothing again.
const IMPATIENT: RetryPolicy = RetryPolicy {
    time: Duration::ZERO,
    ..PATIENT
};

fn line(number: u64, key: &'static str, value: &'static str, time: u64) -> WriteLine {
    WriteLine {
        number,
        key: Bytes::from(key),
        write: LineWrite::Put(Put {
            value: Bytes::from(value),
            content_type: Bytes::new(),
            metadata: Bytes::new(),
            expiry: Expiry::Never,
            precondition: Precondition::None,
        }),
        version: Some(Version { time, region: 2 }),
    }
}

fn delete(number: u64, key: &'static str, time: u64) -> WriteLine {
    WriteLine {
        write: LineWrite::Delete,
        ..line(number, key, "", time)
    }
}

fn executor(mode: ImportMode, retry: RetryPolicy) -> (ModelStore, Executor<ModelStore>) {
    let store = ModelStore::default();
    (store.clone(), Executor::new(store, mode, retry))
}

fn counts(report: &BatchReport) -> (u64, u64, usize) {
    (report.imported, report.skipped, report.failures.len())
}

fn codes(report: &BatchReport) -> Vec<(u64, &'static str)> {
    let failures = report.failures.iter();
    failures
        .map(|failure| (failure.number, failure.code))
        .collect()
}

fn unavailable() -> KeyError {
    Unavailable::Stopping.into()
}

#[tokio::test]
async fn existing_keys_are_overwritten_or_stay() {
    for (mode, expected, value) in [
        (ImportMode::Overwrite, (2, 0, 0), "line"),
        (ImportMode::Skip, (1, 1, 0), "old"),
        (ImportMode::Newer, (1, 1, 0), "old"),
    ] {
        let (store, mut executor) = executor(mode, IMPATIENT);
        store.0.lock().put(&Bytes::from("a"), Bytes::from("old"));
        let lines = vec![line(1, "a", "line", 7), line(2, "b", "line", 7)];
        assert_eq!(counts(&executor.execute(lines).await), expected);
        let model = store.0.lock();
        assert_eq!(model.value("a"), Some(value.as_bytes()), "{mode:?}");
        assert_eq!(model.value("b"), Some(&b"line"[..]));
    }
}

#[tokio::test]
async fn newer_compares_the_versions() {
    let (store, mut executor) = executor(ImportMode::Newer, IMPATIENT);
    let old = store.0.lock().put(&Bytes::from("a"), Bytes::from("old"));
    for (time, expected) in [
        (old.version.time - 1, (0, 1, 0)),
        (old.version.time + 1, (1, 0, 0)),
    ] {
        let report = executor.execute(vec![line(1, "a", "line", time)]).await;
        assert_eq!(counts(&report), expected);
    }
    // The same version, of the same region, is not newer.
    let written = store.0.lock().keys[&b"a"[..]].0;
    let mut same = line(1, "a", "again", 0);
    same.version = Some(written);
    assert_eq!(counts(&executor.execute(vec![same]).await), (0, 1, 0));
    assert_eq!(store.0.lock().value("a"), Some(&b"line"[..]));
}

#[tokio::test]
async fn newer_decides_anew_if_the_key_changes_meanwhile() {
    let (store, mut executor) = executor(ImportMode::Newer, PATIENT);
    store.0.lock().fail("a", Fault::IsOvertaken);
    let report = executor.execute(vec![line(1, "a", "line", 7)]).await;
    assert_eq!(counts(&report), (0, 1, 0));
    assert_eq!(store.0.lock().value("a"), Some(&b"other"[..]));
    // A line of a version after all others is tried a few times.
    for _ in 0..=MAX_CONFLICTS {
        store.0.lock().fail("b", Fault::IsOvertaken);
    }
    let report = executor.execute(vec![line(1, "b", "line", u64::MAX)]).await;
    assert_eq!(codes(&report), [(1, "precondition_failed")]);
    store.0.lock().fail("b", Fault::IsOvertaken);
    let report = executor.execute(vec![line(1, "b", "line", u64::MAX)]).await;
    assert_eq!(counts(&report), (1, 0, 0));
}

#[tokio::test]
async fn a_delete_is_done_if_its_version_is_newer() {
    for mode in [ImportMode::Newer, ImportMode::Merge] {
        let (store, mut executor) = executor(mode, PATIENT);
        let old = store.0.lock().put(&Bytes::from("a"), Bytes::from("old"));
        for (time, expected) in [
            (old.version.time - 1, (0, 1, 0)),
            (old.version.time, (1, 0, 0)),
            // The key isn't there any more.
            (u64::MAX, (0, 1, 0)),
        ] {
            // At the same time, the line's region is higher.
            let report = executor.execute(vec![delete(1, "a", time)]).await;
            assert_eq!(counts(&report), expected, "{mode:?}, {time}");
        }
        assert_eq!(store.0.lock().value("a"), None);
        let report = executor.execute(vec![delete(1, "b", u64::MAX)]).await;
        assert_eq!(counts(&report), (0, 1, 0));
    }
}

#[tokio::test]
async fn a_delete_spares_a_value_that_is_written_meanwhile() {
    let (store, mut executor) = executor(ImportMode::Newer, PATIENT);
    store.0.lock().put(&Bytes::from("a"), Bytes::from("old"));
    store.0.lock().fail("a", Fault::IsOvertaken);
    let report = executor.execute(vec![delete(1, "a", FIRST_TIME + 1)]).await;
    assert_eq!(counts(&report), (0, 1, 0));
    assert_eq!(store.0.lock().value("a"), Some(&b"other"[..]));
}

#[tokio::test]
async fn only_a_merge_leaves_a_key_deleted_that_was_deleted_later() {
    for (mode, time, is_written) in [
        (ImportMode::Newer, 7, true),
        (ImportMode::Merge, 7, false),
        (ImportMode::Merge, u64::MAX, true),
    ] {
        let (store, mut executor) = executor(mode, PATIENT);
        store.0.lock().delete(&Bytes::from("a"));
        let report = executor.execute(vec![line(1, "a", "line", time)]).await;
        let expected = if is_written { (1, 0, 0) } else { (0, 1, 0) };
        assert_eq!(counts(&report), expected, "{mode:?}, {time}");
        assert_eq!(store.0.lock().value("a").is_some(), is_written);
    }
}

#[tokio::test]
async fn what_was_not_done_is_tried_again() {
    for mode in ImportMode::ALL {
        let (store, mut executor) = executor(mode, PATIENT);
        let shortage = DiskShortage {
            elsewhere: true,
            refuses_all: false,
        };
        store.0.lock().fail("a", Fault::Fails(unavailable()));
        store
            .0
            .lock()
            .fail("a", Fault::Fails(KeyError::DiskFull(shortage)));
        let lines = vec![line(1, "a", "line", 7), line(2, "b", "line", 7)];
        let report = executor.execute(lines).await;
        assert_eq!(counts(&report), (2, 0, 0), "{mode:?}");
    }
    let (store, mut executor) = executor(ImportMode::Overwrite, IMPATIENT);
    store.0.lock().fail("a", Fault::Fails(unavailable()));
    let lines = vec![line(1, "a", "line", 7), line(2, "b", "line", 7)];
    let report = executor.execute(lines).await;
    assert_eq!(codes(&report), [(1, "unavailable")]);
    assert_eq!(store.0.lock().calls, 1);
}

#[tokio::test]
async fn limits_fail_their_lines_only() {
    let (store, mut executor) = executor(ImportMode::Overwrite, PATIENT);
    let full = Fault::Fails(KeyError::TooManyKeys { limit: 1 });
    store.0.lock().fail("b", full);
    let lines = vec![line(4, "a", "line", 7), line(5, "b", "line", 7)];
    let report = executor.execute(lines).await;
    assert_eq!(codes(&report), [(5, "plan_limit")]);
    assert_eq!((report.imported, report.fatal.is_none()), (1, true));
    assert_eq!(report.failures[0].key.as_deref(), Some(&b"b"[..]));
}

#[tokio::test]
async fn nothing_follows_a_write_of_unknown_outcome() {
    let (store, mut executor) = executor(ImportMode::Overwrite, PATIENT);
    store.0.lock().fail("a", Fault::IsUncertain);
    let report = executor.execute(vec![line(1, "a", "first", 7)]).await;
    assert_eq!(codes(&report), [(1, "unknown_outcome")]);
    let lines = vec![line(2, "a", "second", 7), line(3, "b", "line", 7)];
    let report = executor.execute(lines).await;
    assert_eq!(codes(&report), [(2, "unavailable")]);
    assert!(report.failures[0].message.contains("unknown outcome"));
    assert_eq!(report.imported, 1);
    assert_eq!(store.0.lock().value("a"), Some(&b"first"[..]));
}

#[tokio::test]
async fn a_deleted_bucket_ends_the_import() {
    let (store, mut executor) = executor(ImportMode::Overwrite, PATIENT);
    store
        .0
        .lock()
        .fail("a", Fault::Fails(KeyError::BucketDeleted));
    let report = executor.execute(vec![line(1, "a", "line", 7)]).await;
    assert_eq!(report.fatal.unwrap().code(), "unknown_bucket");
}

/// Applies lines one by one, as the mode says, to values with their versions.
fn apply(model: &mut BTreeMap<Bytes, u64>, mode: ImportMode, line: &WriteLine) -> bool {
    let version = line.version.unwrap().time;
    let is_written = match (mode, model.get(&line.key)) {
        (_, None) if line.is_delete() => false,
        (ImportMode::Overwrite, _) | (_, None) => true,
        (ImportMode::Skip, Some(_)) => false,
        (ImportMode::Newer | ImportMode::Merge, Some(current)) => version > *current,
    };
    if is_written && line.is_delete() {
        model.remove(&line.key);
    } else if is_written {
        // Newer than all lines.
        model.insert(line.key.clone(), FIRST_TIME);
    }
    is_written
}

proptest! {
    /// Without other clients, the bucket has what the lines have, one after the other, whatever
    /// fails for a while.
    #[test]
    fn an_import_does_what_its_lines_say(
        mode in prop_oneof![
            Just(ImportMode::Overwrite), Just(ImportMode::Skip), Just(ImportMode::Newer)
        ],
        existing in vec(0_usize..4, 0..4),
        lines in vec((0_usize..4, 0_u64..2, any::<bool>()), 1..20),
        faults in vec((0_usize..4, any::<bool>()), 0..8),
    ) {
        const KEYS: [&str; 4] = ["a", "b", "c", "d"];
        let (store, mut executor) = executor(mode, PATIENT);
        let mut expected = BTreeMap::new();
        for key in existing {
            store.0.lock().put(&Bytes::from(KEYS[key]), Bytes::from("old"));
            expected.insert(Bytes::from(KEYS[key]), FIRST_TIME);
        }
        for (key, is_shortage) in faults {
            let shortage = DiskShortage { elsewhere: true, refuses_all: true };
            let error = if is_shortage { KeyError::DiskFull(shortage) } else { unavailable() };
            store.0.lock().fail(KEYS[key], Fault::Fails(error));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for (number, (key, newer, deletes)) in (1..).zip(lines) {
            let (key, time) = (KEYS[key], newer * 2 * FIRST_TIME);
            // Other modes have no deletes.
            let line = if deletes && mode == ImportMode::Newer {
                delete(number, key, time)
            } else {
                line(number, key, "line", time)
            };
            let is_written = apply(&mut expected, mode, &line);
            let report = runtime.block_on(executor.execute(vec![line]));
            let expected = if is_written { (1, 0, 0) } else { (0, 1, 0) };
            prop_assert_eq!(counts(&report), expected);
        }
        let model = store.0.lock();
        let keys: Vec<&Bytes> = model.keys.keys().collect();
        prop_assert_eq!(keys, expected.keys().collect::<Vec<_>>());
    }
}
