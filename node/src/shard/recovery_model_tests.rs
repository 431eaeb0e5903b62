//! A model of a region that has lost a majority of a shard's replicas, checked by trying everything
//! within bounds: what may its survivor go on with, beside regions that have got other parts of its
//! history?
//!
//! | modelled | not modelled |
//! | --- | --- |
//! | one key, writes and deletions in the lost region and elsewhere | several keys, expiry |
//! | the part of each history that the other side has got | streams, batches, faults of them |
//! | survivors that lag, and that hold an entry nobody else has | elections |
//! | what a survivor knows of acknowledgements; watermarks | the joining itself |
//! | tombstones collected before the loss, or after the removal | |
//!
//! The other regions are one: they exchange what they have of a lost region before they remove it,
//! which `cluster-tests/suite/tests/propagation_model` covers. A value is named by the time at which
//! it was written first.

/// The region that loses its majority, and the others.
const LOST: u8 = 1;
const OTHERS: u8 = 2;
/// Number under which the lost region joins again.
const REJOINED: u8 = 3;
/// Time after all writes of a scenario.
const LATER: u8 = 100;

/// A record; of two, the one with the higher time and region wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    time: u8,
    region: u8,
    /// `None` is a tombstone.
    value: Option<u8>,
}

impl Record {
    fn written(time: u8, region: u8, deletes: bool) -> Self {
        Self {
            time,
            region,
            value: (!deletes).then_some(time),
        }
    }

    fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    fn version(&self) -> (u8, u8) {
        (self.time, self.region)
    }
}

fn newest(records: impl IntoIterator<Item = Record>) -> Option<Record> {
    records.into_iter().max_by_key(Record::version)
}

fn value_of(record: Option<Record>) -> Option<u8> {
    record.and_then(|record| record.value)
}

/// A replica that is left of the lost region.
#[derive(Clone, Copy, Debug)]
struct Survivor {
    /// Number of the region's committed writes that it has.
    length: usize,
    /// An entry after them that is not committed; `Some(true)` deletes.
    tail: Option<bool>,
    /// Number of the writes that it knows to be acknowledged by all regions.
    acknowledged: usize,
}

impl Survivor {
    /// Number of the region's writes in its history.
    fn writes(&self) -> usize {
        self.length + usize::from(self.tail.is_some())
    }
}

/// When the tombstone that the others have is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Collected {
    Never,
    BeforeTheLoss,
    AfterTheRemoval,
}

#[derive(Clone, Debug)]
struct Scenario {
    /// Committed writes of the lost region, and those of the others.
    lost: Vec<Record>,
    others: Vec<Record>,
    /// Numbers of these that the other side has got.
    sent: usize,
    received: usize,
    /// The lost region's watermark that the others know.
    watermark: u8,
    /// The last one has the longest log.
    survivors: Vec<Survivor>,
    collected: Collected,
}

impl Scenario {
    /// Returns everything that the others have ever had.
    fn had_by_others(&self) -> impl Iterator<Item = Record> {
        let sent = self.lost[..self.sent].iter();
        self.others.iter().chain(sent).copied()
    }

    /// Returns the others' record when the region joins anew.
    fn record_of_others(&self) -> Option<Record> {
        let record = newest(self.had_by_others());
        record.filter(|record| !record.is_tombstone() || self.collected == Collected::Never)
    }

    fn record_of(&self, survivor: &Survivor) -> Option<Record> {
        let own = &self.lost[..survivor.length];
        let tail = survivor.tail.map(|deletes| {
            let time = own.last().map_or(0, |last| last.time) + 1;
            Record::written(time, LOST, deletes)
        });
        let received = &self.others[..self.received];
        newest(own.iter().chain(received).copied().chain(tail))
    }

    /// Returns what a survivor exports: the record of its change log.
    fn exported_by(&self, survivor: &Survivor) -> Option<Record> {
        let is_retained = survivor.writes() > survivor.acknowledged;
        self.record_of(survivor).filter(|_| is_retained)
    }

    /// Returns whether the others have had a record, or a newer one.
    fn is_known(&self, record: &Record) -> bool {
        record.region == OTHERS || record.time <= self.watermark
    }

    /// Returns the records that only the survivors have.
    fn unsent(&self) -> impl Iterator<Item = Record> {
        let exported = self.survivors.iter().filter_map(|it| self.exported_by(it));
        exported.filter(|record| !self.is_known(record))
    }

    /// Returns the newest of all that anybody has.
    fn expected(&self) -> Option<Record> {
        newest(self.had_by_others().chain(self.unsent()))
    }

    fn may_collect(&self, collected: Collected) -> bool {
        let newest = newest(self.had_by_others()).filter(Record::is_tombstone);
        match (collected, newest) {
            (Collected::Never, _) => true,
            (Collected::BeforeTheLoss, Some(tombstone)) => {
                let received = self.others[..self.received].contains(&tombstone);
                tombstone.time <= self.watermark && (tombstone.region == LOST || received)
            }
            (Collected::AfterTheRemoval, Some(_)) => true,
            (Collected::BeforeTheLoss | Collected::AfterTheRemoval, None) => false,
        }
    }
}

/// Records of the region and of the others in the end.
type Outcome = [Option<Record>; 2];

fn has_converged(outcome: &Outcome) -> bool {
    value_of(outcome[0]) == value_of(outcome[1])
}

fn is_expected(scenario: &Scenario, outcome: &Outcome) -> bool {
    let expected = value_of(scenario.expected());
    outcome.iter().all(|record| value_of(*record) == expected)
}

/// The longest log goes on under a new number, and each side sends what the other one lacks by its
/// cursor.
fn renumber_with_cursors(scenario: &Scenario) -> Outcome {
    let Some(survivor) = scenario.survivors.last() else {
        return [None; 2];
    };
    let own = scenario.record_of(survivor);
    let others = newest(scenario.had_by_others());
    let sent = own.filter(|_| survivor.writes() > scenario.sent.max(survivor.acknowledged));
    let received = others.filter(|_| scenario.others.len() > scenario.received);
    [
        newest(own.into_iter().chain(received)),
        newest(others.into_iter().chain(sent)),
    ]
}

/// The longest log goes on under a new number, and both sides exchange all records.
fn renumber_with_scans(scenario: &Scenario) -> Outcome {
    let own = scenario.survivors.last();
    let own = own.and_then(|survivor| scenario.record_of(survivor));
    let newest = newest(own.into_iter().chain(scenario.record_of_others()));
    [newest; 2]
}

/// What is imported into the region that has joined anew, and how.
struct ImportRule {
    /// What the others have had is left out.
    leaves_known_out: bool,
    /// Only the survivor with the longest log imports.
    one_survivor: bool,
    /// A key that was deleted later stays so.
    compares_tombstones: bool,
}

/// The rule of `app/region_import`.
const RULE: ImportRule = ImportRule {
    leaves_known_out: true,
    one_survivor: true,
    compares_tombstones: true,
};

/// The region joins anew, seeded from the others, and imports what its survivors have exported.
fn rejoin(scenario: &Scenario, rule: &ImportRule) -> Outcome {
    let others = scenario.record_of_others();
    let (mut own, mut time) = (others, LATER);
    let first = if rule.one_survivor {
        scenario.survivors.len() - 1
    } else {
        0
    };
    for survivor in &scenario.survivors[first..] {
        let Some(line) = scenario.exported_by(survivor) else {
            continue;
        };
        if rule.leaves_known_out && scenario.is_known(&line) {
            continue;
        }
        let is_older = own.is_some_and(|own| own.version() >= line.version());
        let is_live = own.is_some_and(|own| !own.is_tombstone());
        let stays = if line.is_tombstone() {
            !is_live || is_older
        } else {
            is_older && (is_live || rule.compares_tombstones)
        };
        if !stays {
            time += 1;
            own = Some(Record {
                time,
                region: REJOINED,
                value: line.value,
            });
        }
    }
    [own, newest(others.into_iter().chain(own))]
}

/// Returns all scenarios of up to so many committed writes.
fn scenarios(max_writes: u32, survivors: usize) -> Vec<Scenario> {
    let mut all = Vec::new();
    for writes in 0..=max_writes {
        for choice in 0..1_u32 << (2 * writes) {
            let write = |at: u32| {
                let (is_lost, deletes) = (choice >> (2 * at) & 1 == 1, choice >> (2 * at) & 2 == 2);
                let region = if is_lost { LOST } else { OTHERS };
                // Each leaves the time after it to an entry that isn't committed.
                Record::written(2 * (at as u8 + 1), region, deletes)
            };
            let (lost, others): (Vec<_>, Vec<_>) =
                (0..writes).map(write).partition(|it| it.region == LOST);
            add_scenarios(&lost, &others, survivors, &mut all);
        }
    }
    all
}

fn add_scenarios(lost: &[Record], others: &[Record], survivors: usize, all: &mut Vec<Scenario>) {
    for sent in 0..=lost.len() {
        let lowest = sent.checked_sub(1).map_or(0, |last| lost[last].time);
        let highest = lost.get(sent).map_or(LATER, |next| next.time) - 1;
        for survivors in survivor_sets(lost.len(), sent, survivors) {
            for received in 0..=others.len() {
                for watermark in [lowest, highest] {
                    for collected in [
                        Collected::Never,
                        Collected::BeforeTheLoss,
                        Collected::AfterTheRemoval,
                    ] {
                        let scenario = Scenario {
                            lost: lost.to_vec(),
                            others: others.to_vec(),
                            sent,
                            received,
                            watermark,
                            survivors: survivors.clone(),
                            collected,
                        };
                        if scenario.may_collect(collected) {
                            all.push(scenario);
                        }
                    }
                }
            }
        }
    }
}

/// Returns all sets of one or two survivors of a region with so many writes.
fn survivor_sets(writes: usize, sent: usize, count: usize) -> Vec<Vec<Survivor>> {
    let mut single = Vec::new();
    for length in 0..=writes {
        for tail in [None, Some(false), Some(true)] {
            single.extend((0..=length.min(sent)).map(|acknowledged| Survivor {
                length,
                tail,
                acknowledged,
            }));
        }
    }
    if count == 1 {
        return single.into_iter().map(|survivor| vec![survivor]).collect();
    }
    let is_shorter = |a: &&Survivor, b: &Survivor| a.tail.is_none() && a.length <= b.length;
    let pairs = single.iter().flat_map(|longest| {
        let shorter = single.iter().filter(move |it| is_shorter(it, longest));
        shorter.map(move |it| vec![*it, *longest])
    });
    pairs.collect()
}

/// Returns the first scenario of a kind, which must exist.
fn find(scenarios: &[Scenario], is_sought: impl Fn(&Scenario) -> bool) -> &Scenario {
    let found = scenarios.iter().find(|scenario| is_sought(scenario));
    found.expect("there is a counterexample")
}

/// Returns whether a value comes back that the others have had, and have deleted.
fn comes_back(scenario: &Scenario, outcome: &Outcome) -> bool {
    let newest = newest(scenario.had_by_others());
    let deleted = newest.filter(Record::is_tombstone);
    let (Some(deleted), Some(value)) = (deleted, value_of(outcome[1])) else {
        return false;
    };
    let had = || scenario.had_by_others().any(|it| it.value == Some(value));
    value < deleted.time && had()
}

#[test]
fn a_region_that_goes_on_under_a_new_number_diverges_by_cursors() {
    let scenarios = scenarios(3, 1);
    let diverges = |scenario: &Scenario| {
        let outcome = renumber_with_cursors(scenario);
        scenario.collected == Collected::Never && !has_converged(&outcome)
    };
    // The others have what the survivor lacks, and believe that it wrote that.
    find(&scenarios, |scenario| {
        let survivor = scenario.survivors[0];
        diverges(scenario) && survivor.tail.is_none() && survivor.length < scenario.sent
    });
    // The survivor has an entry of its own at a position that the others have got another one of.
    find(&scenarios, |scenario| {
        let survivor = scenario.survivors[0];
        let tail = scenario.record_of(&survivor);
        let is_its_own = tail.is_some_and(|it| it.region == LOST && it.time % 2 == 1);
        diverges(scenario) && is_its_own && survivor.writes() <= scenario.sent
    });
}

#[test]
fn a_region_that_goes_on_under_a_new_number_brings_deleted_values_back() {
    let scenarios = scenarios(3, 1);
    find(&scenarios, |scenario| {
        let outcome = renumber_with_scans(scenario);
        let is_collected = scenario.collected == Collected::BeforeTheLoss;
        is_collected && has_converged(&outcome) && comes_back(scenario, &outcome)
    });
}

#[test]
fn a_region_that_joins_anew_and_imports_loses_nothing() {
    for (writes, survivors) in [(4, 1), (3, 2)] {
        for scenario in scenarios(writes, survivors) {
            let outcome = rejoin(&scenario, &RULE);
            assert!(has_converged(&outcome), "{scenario:?}: {outcome:?}");
            assert!(
                !comes_back(&scenario, &outcome),
                "{scenario:?}: {outcome:?}"
            );
            if scenario.collected != Collected::AfterTheRemoval {
                assert!(
                    is_expected(&scenario, &outcome),
                    "{scenario:?}: {outcome:?}"
                );
                continue;
            }
            // A tombstone that is gone can't be compared; what is live is never lost.
            let expected = value_of(scenario.expected());
            let is_unsent = |value| scenario.unsent().any(|it| it.value == Some(value));
            let found = value_of(outcome[1]);
            let is_revived = expected.is_none() && found.is_some_and(is_unsent);
            assert!(found == expected || is_revived, "{scenario:?}: {outcome:?}");
        }
    }
}

/// A limit of the rule: who deletes elsewhere, after the loss, a key of which the survivor has an
/// unsent value, may find that value again.
#[test]
fn an_import_may_revive_what_was_deleted_elsewhere_after_the_loss() {
    let scenarios = scenarios(2, 1);
    let revived = find(&scenarios, |scenario| {
        let outcome = rejoin(scenario, &RULE);
        !is_expected(scenario, &outcome)
    });
    assert_eq!(revived.collected, Collected::AfterTheRemoval);
}

#[test]
fn an_import_of_what_the_others_have_had_brings_deleted_values_back() {
    let rule = ImportRule {
        leaves_known_out: false,
        ..RULE
    };
    find(&scenarios(3, 1), |scenario| {
        let is_collected = scenario.collected == Collected::BeforeTheLoss;
        is_collected && comes_back(scenario, &rejoin(scenario, &rule))
    });
}

#[test]
fn imports_of_two_survivors_may_hide_the_newer_value() {
    let rule = ImportRule {
        one_survivor: false,
        ..RULE
    };
    find(&scenarios(2, 2), |scenario| {
        let is_committed = scenario.survivors.iter().all(|it| it.tail.is_none());
        let outcome = rejoin(scenario, &rule);
        let is_collected = scenario.collected != Collected::Never;
        is_committed && !is_collected && !is_expected(scenario, &outcome)
    });
}

#[test]
fn an_import_that_compares_live_keys_alone_revives_what_was_deleted() {
    let rule = ImportRule {
        compares_tombstones: false,
        ..RULE
    };
    find(&scenarios(2, 1), |scenario| {
        let is_collected = scenario.collected != Collected::Never;
        !is_collected && !is_expected(scenario, &rejoin(scenario, &rule))
    });
}
