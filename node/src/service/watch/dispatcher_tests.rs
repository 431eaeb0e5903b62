//! The dispatcher with its hubs and rings.

use futures_util::FutureExt;
use proptest::prelude::*;
use proptest::sample::Index;

use super::fixture::{
    BUCKETS, Fixture, KEYS, NO_BOUNDS, SHARDS, SMALL_BOUNDS, Step, bucket, bucket_with, filter,
    key, shard_of_key,
};
use super::*;
use crate::service::watch::reader::RingReader;
use crate::service::watch::ring::Taken;

fn any_step() -> impl Strategy<Value = Step> {
    let keys = proptest::collection::vec(0..KEYS.len(), 1..5);
    let max_bytes = prop_oneof![Just(1_usize), Just(usize::MAX)];
    prop_oneof![
        8 => (0..BUCKETS.len(), keys).prop_map(|(bucket, keys)| Step::Push(bucket, keys)),
        3 => (0..BUCKETS.len(), 0..5_usize).prop_map(|(bucket, filter)| Step::Join(bucket, filter)),
        8 => (any::<Index>(), max_bytes).prop_map(|(index, bytes)| Step::Take(index, bytes)),
        1 => any::<Index>().prop_map(Step::Leave),
        1 => (0..SHARDS).prop_map(Step::Skip),
    ]
}

proptest! {
    #[test]
    fn each_watcher_is_told_all_that_it_watches_or_loses_its_place(
        steps in proptest::collection::vec(any_step(), 0..200),
        is_bounded in any::<bool>(),
    ) {
        let bounds = if is_bounded { SMALL_BOUNDS } else { NO_BOUNDS };
        let mut fixture = Fixture::new(bounds);
        for step in &steps {
            fixture.step(step);
        }
        fixture.finish();
    }
}

#[test]
fn a_fast_watcher_keeps_its_place_while_a_slow_one_loses_it() {
    let mut fixture = Fixture::new(SMALL_BOUNDS);
    fixture.join(0, filter(0));
    fixture.join(0, filter(0));
    for _ in 0..100 {
        fixture.push(0, &[0]);
        fixture.take(0, usize::MAX);
        fixture.check();
    }
    assert_eq!(fixture.watchers.len(), 2);
    fixture.take(1, usize::MAX);
    assert_eq!(fixture.watchers.len(), 1);
    fixture.finish();
}

#[test]
fn another_bucket_pays_if_all_together_have_too_much() {
    let bounds = BufferBounds {
        bucket: usize::MAX,
        total: 4000,
    };
    let mut fixture = Fixture::new(bounds);
    fixture.join(0, filter(0));
    fixture.join(1, filter(0));
    fixture.push(1, &[0]);
    for _ in 0..20 {
        fixture.push(0, &[0]);
        fixture.check();
    }
    // The one with the most.
    let mut events = Vec::new();
    let mut taken = |fixture: &mut Fixture, number: usize| {
        let reader = &mut fixture.watchers[number].reader;
        reader.take(usize::MAX, false, &mut events)
    };
    assert_eq!(taken(&mut fixture, 0), Taken::TooSlow);
    assert_eq!(taken(&mut fixture, 1), Taken::Events);
}

#[test]
fn a_page_that_lacks_a_watched_bucket_is_read_again() {
    let mut fixture = Fixture::new(NO_BOUNDS);
    let scope = fixture.dispatcher.scope();
    assert_eq!(*scope.borrow(), Scope::All);
    fixture.join(0, filter(0));
    let only = Scope::Bucket(bucket(0).id);
    assert_eq!(*scope.borrow(), only);
    let (shard, page) = fixture.next_page(0, &[0]);
    fixture.join(1, filter(0));
    assert_eq!(*scope.borrow(), Scope::All);
    let outcome = fixture.dispatcher.apply(fixture.run, shard, only, page);
    assert_eq!(outcome, PageOutcome::Rejected);
    fixture.push(0, &[0]);
    fixture.finish();
}

#[test]
fn changes_of_a_run_that_is_over_are_not_taken() {
    let fixture = Fixture::new(NO_BOUNDS);
    let (shard, page) = fixture.next_page(0, &[0]);
    assert!(!fixture.dispatcher.end_run_if(fixture.run, || false));
    assert!(fixture.dispatcher.end_run_if(fixture.run, || true));
    let outcome = fixture
        .dispatcher
        .apply(fixture.run, shard, Scope::All, page);
    assert_eq!(outcome, PageOutcome::Stopped);
    assert_eq!(fixture.dispatcher.positions(), None);
    let next = fixture.dispatcher.begin_run().unwrap();
    assert!(next.number != fixture.run && fixture.dispatcher.begin_run().is_none());
    let refused = fixture.try_join(0, &filter(0)).err();
    assert_eq!(refused, Some(WatchEnd::NotServing));
}

#[test]
fn the_drop_of_a_bucket_ends_its_streams_only() {
    let mut fixture = Fixture::new(NO_BOUNDS);
    fixture.join(0, filter(0));
    fixture.join(1, filter(0));
    let (shard, mut page) = fixture.next_page(0, &[0]);
    page.changes[0].kind = KeyChangeKind::BucketDropped;
    let outcome = fixture
        .dispatcher
        .apply(fixture.run, shard, Scope::All, page);
    assert_eq!(outcome, PageOutcome::Applied);
    let mut events = Vec::new();
    let [dropped, other] = &mut fixture.watchers[..] else {
        panic!("two have joined");
    };
    let taken = dropped.reader.take(1, false, &mut events);
    assert_eq!(taken, Taken::End(WatchEnd::BucketDeleted));
    assert_eq!(other.reader.take(1, false, &mut events), Taken::Nothing);
    assert_eq!(fixture.dispatcher.watched_buckets().len(), 1);
}

#[test]
fn a_shard_without_a_leader_ends_and_refuses_those_who_watch_its_keys() {
    let mut fixture = Fixture::new(NO_BOUNDS);
    let keys: Vec<KeyFilter> = (0..KEYS.len()).map(|it| KeyFilter::Key(key(it))).collect();
    for key in &keys {
        fixture.join(0, key.clone());
    }
    fixture.join(0, filter(0));
    let shard = shard_of_key(0, &key(0));
    fixture.dispatcher.set_serving(fixture.run, shard, false);
    assert!(!fixture.dispatcher.is_serving(&(0..SHARDS)));
    let mut events = Vec::new();
    for watcher in &mut fixture.watchers {
        let is_concerned = match &watcher.filter {
            KeyFilter::Key(key) => shard_of_key(0, key) == shard,
            KeyFilter::Prefix(_) => true,
        };
        let taken = watcher.reader.take(1, false, &mut events);
        let end = Taken::End(WatchEnd::NotServing);
        assert_eq!(taken, if is_concerned { end } else { Taken::Nothing });
    }
    for filter in keys.iter().chain([&filter(0)]) {
        let is_concerned = match filter {
            KeyFilter::Key(key) => shard_of_key(0, key) == shard,
            KeyFilter::Prefix(_) => true,
        };
        assert_eq!(fixture.try_join(0, filter).is_err(), is_concerned);
    }
    fixture.dispatcher.set_serving(fixture.run, shard, true);
    assert!(fixture.try_join(0, &filter(0)).is_ok());
}

#[test]
fn another_access_mode_ends_the_streams_of_the_former_one() {
    let fixture = Fixture::new(NO_BOUNDS);
    let join = |access| {
        let bucket = bucket_with(0, access);
        RingReader::join(&fixture.dispatcher, &bucket, &filter(0), &(0..SHARDS)).unwrap()
    };
    let (mut public, _) = join(Access::Public);
    let (mut protected, _) = join(Access::Protected);
    let mut events = Vec::new();
    let taken = public.take(1, false, &mut events);
    assert_eq!(taken, Taken::End(WatchEnd::AccessChanged));
    drop(public);
    let id = bucket(0).id;
    let end = WatchEnd::BucketDeleted;
    fixture.dispatcher.end_bucket(&id, Access::Public, end);
    assert_eq!(protected.take(1, false, &mut events), Taken::Nothing);
    fixture.dispatcher.end_bucket(&id, Access::Protected, end);
    assert_eq!(protected.take(1, false, &mut events), Taken::End(end));
}

#[test]
fn a_node_that_drains_ends_all_streams_and_refuses_others() {
    let mut fixture = Fixture::new(NO_BOUNDS);
    fixture.join(0, filter(0));
    fixture.push(0, &[0]);
    fixture.dispatcher.drain();
    let mut events = Vec::new();
    let taken = fixture.watchers[0].reader.take(1, false, &mut events);
    assert_eq!(taken, Taken::End(WatchEnd::Draining));
    assert_eq!(fixture.dispatcher.buffered_bytes(), 0);
    let refused = fixture.try_join(0, &filter(0)).err();
    assert_eq!(refused, Some(WatchEnd::Draining));
    assert!(fixture.dispatcher.begin_run().is_none());
}

#[test]
fn watchers_are_woken_for_what_they_watch() {
    let mut fixture = Fixture::new(NO_BOUNDS);
    fixture.join(0, filter(2));
    fixture.join(0, filter(1));
    let mut events = Vec::new();
    for watcher in &mut fixture.watchers {
        let taken = watcher.reader.take(1, false, &mut events);
        assert_eq!(taken, Taken::Nothing);
        assert_eq!(watcher.reader.wait().now_or_never(), None);
    }
    fixture.push(0, &[0]);
    let [other, woken] = &mut fixture.watchers[..] else {
        panic!("two have joined");
    };
    assert_eq!(other.reader.wait().now_or_never(), None);
    assert_eq!(woken.reader.wait().now_or_never(), Some(()));
    fixture.finish();
}

#[test]
fn a_stream_waits_until_its_shards_have_reached_its_positions() {
    let mut fixture = Fixture::new(NO_BOUNDS);
    let dispatcher = fixture.dispatcher.clone();
    let shard = shard_of_key(0, &key(0));
    let mut targets = vec![10; usize::from(SHARDS)];
    targets[usize::from(shard)] = 11;
    let (one, all) = (shard..shard + 1, 0..SHARDS);
    let unreachable = vec![11; usize::from(SHARDS)];
    {
        let mut reached = pin!(dispatcher.wait_for(&all, &targets));
        assert_eq!(reached.as_mut().now_or_never(), None);
        fixture.push(0, &[0]);
        assert_eq!(reached.as_mut().now_or_never(), Some(()));
    }
    // The other shard doesn't matter to those who don't watch it.
    assert_eq!(
        dispatcher.wait_for(&one, &unreachable).now_or_never(),
        Some(())
    );
    assert_eq!(dispatcher.wait_for(&all, &unreachable).now_or_never(), None);
}
