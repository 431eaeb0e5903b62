//! Workload of the recording clients: keys and operations.

use std::collections::{BTreeSet, HashMap};

use super::batch::BatchOperation;
use super::call_record::Action;
use super::checker::Content;
use super::history::KeyName;
use super::key_list::KeyList;
use cloudkv_test_harness::rng::Rng;

/// Number of keys that many clients use at once.
pub(super) const HOT_KEYS: u64 = 6;
/// Number of keys that are used now and then.
pub(super) const COLD_KEYS: u64 = 120;

/// Number of steps that are batches, in permille, and the number of their operations.
const BATCHES_PERMILLE: u64 = 60;
const BATCH_OPERATIONS: std::ops::Range<u64> = 2..21;

/// Number of steps that are lists with values, in permille.
const LISTS_PERMILLE: u64 = 10;

/// Number of calls and of operations of batches that are touches, in permille, and the number of
/// these that have a condition.
const TOUCHES_PERMILLE: u64 = 100;
const CONDITIONAL_TOUCHES_PERMILLE: u64 = 250;

/// Kind of a call, before the present content is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Get,
    Put,
    Delete,
    Create,
    /// Reads, and writes if no write came in between.
    PutIfMatch,
    /// Reads, and deletes if no write came in between.
    DeleteIfMatch,
    /// Changes the metadata.
    Touch,
    /// Reads, and changes the metadata if no write came in between.
    TouchIfMatch,
}

impl Intent {
    /// Returns whether the present content must be read first.
    fn needs_read(self) -> bool {
        matches!(
            self,
            Self::PutIfMatch | Self::DeleteIfMatch | Self::TouchIfMatch
        )
    }

    /// Returns the call, which writes `content`, or its number, if it is a write; `None` if the
    /// present content must be read first.
    pub(super) fn action(self, content: Content) -> Option<Action> {
        match self {
            Self::Get => Some(Action::Get),
            Self::Put => Some(Action::Put(content)),
            Self::Delete => Some(Action::Delete),
            Self::Create => Some(Action::Create(content)),
            Self::Touch => Some(Action::Touch(content.value)),
            Self::PutIfMatch | Self::DeleteIfMatch | Self::TouchIfMatch => None,
        }
    }

    /// Returns the conditional call on a key whose present content is `was`.
    pub(super) fn conditional_action(self, was: Content, content: Content) -> Action {
        match self {
            Self::DeleteIfMatch => Action::DeleteIfMatch(was),
            Self::Touch | Self::TouchIfMatch => Action::TouchIfMatch {
                was,
                metadata: content.value,
            },
            Self::Get | Self::Put | Self::Delete | Self::Create | Self::PutIfMatch => {
                Action::PutIfMatch { was, content }
            }
        }
    }
}

/// Next step of a client.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Call(KeyName, Intent),
    Batch(PlannedBatch),
    List(KeyList),
}

impl Step {
    /// Draws the next step; with calls that only nodes of feature level 2 know if `has_new_calls`.
    pub(super) fn draw(rng: &mut Rng, generation: u64, has_new_calls: bool) -> Self {
        if !has_new_calls {
            let (key, intent) = next_call(rng, generation);
            return Self::Call(key, intent);
        }
        let kind = rng.range(0..1000);
        if kind < BATCHES_PERMILLE {
            let count = rng.range(BATCH_OPERATIONS);
            let intents = (0..count).map(|_| next_call_or_touch(rng, generation));
            Self::Batch(PlannedBatch(intents.collect()))
        } else if kind < BATCHES_PERMILLE + LISTS_PERMILLE {
            let (key, _) = next_call(rng, generation);
            Self::List(list_around(key))
        } else {
            let (key, intent) = next_call_or_touch(rng, generation);
            Self::Call(key, intent)
        }
    }
}

/// A batch before the present contents are known.
#[derive(Clone, Debug)]
pub(super) struct PlannedBatch(Vec<(KeyName, Intent)>);

impl PlannedBatch {
    /// Returns the reads that conditions need, as another batch; empty if they need none.
    pub(super) fn reads(&self) -> Vec<BatchOperation> {
        let conditional = self.0.iter().filter(|(_, intent)| intent.needs_read());
        let keys: BTreeSet<KeyName> = conditional.map(|(key, _)| *key).collect();
        keys.into_iter()
            .map(|key| BatchOperation::new(key, Action::Get))
            .collect()
    }

    /// Returns the operations, with the contents and ETags that were read for conditions. Where
    /// there is none, the operation is a read.
    pub(super) fn operations(
        self,
        present: &HashMap<KeyName, (Content, Box<str>)>,
        mut new_content: impl FnMut() -> Content,
    ) -> Vec<BatchOperation> {
        let operations = self.0.into_iter().map(|(key, intent)| {
            let content = new_content();
            if let Some(action) = intent.action(content) {
                return BatchOperation::new(key, action);
            }
            let Some((was, etag)) = present.get(&key) else {
                return BatchOperation::new(key, Action::Get);
            };
            BatchOperation {
                etag: Some(etag.clone()),
                ..BatchOperation::new(key, intent.conditional_action(*was, content))
            }
        });
        operations.collect()
    }
}

/// Returns the next call, of those that all nodes know.
pub(super) fn next_call(rng: &mut Rng, generation: u64) -> (KeyName, Intent) {
    let number = if rng.chance_permille(500) {
        rng.range(0..HOT_KEYS)
    } else {
        HOT_KEYS + rng.range(0..COLD_KEYS)
    };
    let intent = match rng.range(0..100) {
        0..38 => Intent::Get,
        38..66 => Intent::Put,
        66..74 => Intent::Delete,
        74..84 => Intent::Create,
        84..96 => Intent::PutIfMatch,
        _ => Intent::DeleteIfMatch,
    };
    (KeyName { generation, number }, intent)
}

fn next_call_or_touch(rng: &mut Rng, generation: u64) -> (KeyName, Intent) {
    let (key, intent) = next_call(rng, generation);
    if !rng.chance_permille(TOUCHES_PERMILLE) {
        return (key, intent);
    }
    let intent = if rng.chance_permille(CONDITIONAL_TOUCHES_PERMILLE) {
        Intent::TouchIfMatch
    } else {
        Intent::Touch
    };
    (key, intent)
}

/// Returns the list of the keys whose numbers begin as that of `key`, up to the last digit.
fn list_around(key: KeyName) -> KeyList {
    let beginning = KeyName {
        number: if key.number < 10 {
            key.number
        } else {
            key.number / 10
        },
        ..key
    };
    let prefix = beginning.to_string();
    let all = (0..HOT_KEYS + COLD_KEYS).map(|number| KeyName { number, ..key });
    KeyList {
        keys: all
            .filter(|key| key.to_string().starts_with(&prefix))
            .collect(),
        prefix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATION: u64 = 3;

    #[test]
    fn a_seed_always_yields_the_same_steps_with_all_calls() {
        let steps = |seed| {
            let mut rng = Rng::new(seed);
            let steps = (0..2000).map(|_| Step::draw(&mut rng, GENERATION, true));
            steps.collect::<Vec<_>>()
        };
        assert_eq!(format!("{:?}", steps(1)), format!("{:?}", steps(1)));
        let steps = steps(1);
        let count = |matches: fn(&Step) -> bool| steps.iter().filter(|step| matches(step)).count();
        assert!(count(|step| matches!(step, Step::Batch(_))) > 60);
        assert!(count(|step| matches!(step, Step::List(_))) > 5);
        assert!(count(|step| matches!(step, Step::Call(_, Intent::Touch))) > 60);
        assert!(count(|step| matches!(step, Step::Call(_, Intent::TouchIfMatch))) > 20);
        for step in &steps {
            if let Step::Batch(batch) = step {
                assert!((2..=20).contains(&batch.0.len()));
            }
        }
    }

    #[test]
    fn without_the_new_calls_all_steps_are_those_of_level_1() {
        let mut rng = Rng::new(1);
        let mut same = Rng::new(1);
        for _ in 0..2000 {
            let (key, intent) = next_call(&mut same, GENERATION);
            let step = Step::draw(&mut rng, GENERATION, false);
            assert!(matches!(step, Step::Call(k, i) if (k, i) == (key, intent)));
            assert!(!matches!(intent, Intent::Touch | Intent::TouchIfMatch));
        }
    }

    #[test]
    fn conditions_of_a_batch_need_what_was_read() {
        let key = |number| KeyName {
            generation: GENERATION,
            number,
        };
        let batch = PlannedBatch(vec![
            (key(2), Intent::TouchIfMatch),
            (key(1), Intent::Put),
            (key(1), Intent::PutIfMatch),
            (key(2), Intent::DeleteIfMatch),
        ]);
        let reads = batch.reads();
        let read_keys: Vec<KeyName> = reads.iter().map(|read| read.key).collect();
        assert_eq!(read_keys, [key(1), key(2)]);
        let was = Content::plain(1);
        let present = HashMap::from([(key(1), (was, "\"0a-1\"".into()))]);
        let mut last = 10;
        let operations = batch.operations(&present, || {
            last += 1;
            Content::plain(last)
        });
        let actions: Vec<Action> = operations.iter().map(|it| it.action).collect();
        let content = Content::plain(13);
        assert_eq!(
            actions,
            [
                Action::Get,
                Action::Put(Content::plain(12)),
                Action::PutIfMatch { was, content },
                Action::Get,
            ]
        );
        assert_eq!(operations[2].etag.as_deref(), Some("\"0a-1\""));
    }

    #[test]
    fn a_list_has_the_keys_with_its_prefix() {
        let list = |number| {
            let list = list_around(KeyName {
                generation: GENERATION,
                number,
            });
            let numbers: Vec<u64> = list.keys.iter().map(|key| key.number).collect();
            (list.prefix, numbers)
        };
        assert_eq!(list(0), ("g3/k0".into(), vec![0]));
        let tens = [12].into_iter().chain(120..126).collect();
        assert_eq!(list(123), ("g3/k12".into(), tens));
        assert_eq!(list(1).1.len(), 1 + 10 + 26);
        assert_eq!(list(14), list(1));
    }
}
