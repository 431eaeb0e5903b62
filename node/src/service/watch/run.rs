//! The tasks of the dispatcher: one follows each shard, and one checks the watched buckets. They
//! run only while there are watchers, and for a moment after the last one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::context::WatchContext;
use super::dispatcher::{PageOutcome, Run, Scope};
use super::source::ChangesError;
use crate::service::read_changes::MAX_CHANGES_WAIT;
use crate::shard::{ChangesPage, ChangesRange};

/// Time without contact to a shard's leader after which its streams end.
const LEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Time after a failed read before the next one.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);
/// Number of changes after which a page ends.
const PAGE_CHANGES: usize = 256;
/// Interval at which the watched buckets are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Number of checks without a watcher after which the tasks end.
const MAX_IDLE_CHECKS: u32 = 5;

/// Starts the tasks, unless they run.
pub(super) fn ensure_running(context: &Arc<WatchContext>) {
    let Some(run) = context.dispatcher.begin_run() else {
        return;
    };
    for shard in context.source.shards().numbers() {
        let follower = ShardFollower {
            context: context.clone(),
            run: run.number,
            shard,
            position: 0,
            scope: context.dispatcher.scope(),
            last_contact: Instant::now(),
            is_serving: true,
        };
        spawn(context, &run, follower.follow());
    }
    spawn(context, &run, check_buckets(context.clone(), run.number));
}

fn spawn(context: &WatchContext, run: &Run, task: impl Future<Output = ()> + Send + 'static) {
    let task = run.stop.clone().run_until_cancelled_owned(task);
    context.runtime.spawn(task);
}

/// Ends the streams of buckets that were deleted, or whose access mode has changed, and the tasks
/// when nobody watches any more.
async fn check_buckets(context: Arc<WatchContext>, run: u64) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle_checks = 0;
    loop {
        ticks.tick().await;
        for (bucket, access) in context.dispatcher.watched_buckets() {
            if let Err(end) = context.check_access(&bucket, access) {
                context.dispatcher.end_bucket(&bucket, access, end);
            }
        }
        let has_watchers = || context.admission.counts().0 > 0;
        idle_checks = if has_watchers() { 0 } else { idle_checks + 1 };
        let is_idle = idle_checks >= MAX_IDLE_CHECKS;
        if is_idle && context.dispatcher.end_run_if(run, || !has_watchers()) {
            return;
        }
    }
}

/// Task that follows one shard.
struct ShardFollower {
    context: Arc<WatchContext>,
    run: u64,
    shard: u16,
    /// Entry up to which the shard's changes are in the rings.
    position: u64,
    scope: watch::Receiver<Scope>,
    last_contact: Instant,
    is_serving: bool,
}

impl ShardFollower {
    async fn follow(mut self) {
        self.begin().await;
        loop {
            // A replica's changes are read without waiting while there are more.
            consume_budget().await;
            let scope = *self.scope.borrow_and_update();
            let read = tokio::select! {
                read = read_page(&self.context, self.shard, self.position, scope) => read,
                // One for all buckets is never given up, however often the scope changes: so those
                // who come and go don't keep the others waiting.
                changed = self.scope.changed(), if scope != Scope::All => match changed {
                    // A page for the former scope would lack changes.
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let outcome = match read {
                Some(Ok(page)) => {
                    self.record_contact();
                    self.apply(scope, page)
                }
                Some(Err(ChangesError::TooOld { last_index })) => {
                    self.record_contact();
                    self.skip_to(last_index);
                    PageOutcome::Applied
                }
                Some(Err(ChangesError::Failed(_))) | None => {
                    self.record_failure().await;
                    PageOutcome::Rejected
                }
            };
            if outcome == PageOutcome::Stopped {
                return;
            }
        }
    }

    /// Waits until it is known where the shard's log ends.
    async fn begin(&mut self) {
        loop {
            let index = self.context.source.last_index(self.shard);
            if let Ok(Ok(index)) = timeout(LEADER_TIMEOUT, index).await {
                self.position = index;
                let dispatcher = &self.context.dispatcher;
                dispatcher.begin_shard(self.run, self.shard, index);
                return self.record_contact();
            }
            self.record_failure().await;
        }
    }

    fn apply(&mut self, scope: Scope, page: ChangesPage) -> PageOutcome {
        let up_to = page.up_to;
        let dispatcher = &self.context.dispatcher;
        let outcome = dispatcher.apply(self.run, self.shard, scope, page);
        if outcome == PageOutcome::Applied {
            // A replica that lags is waited for.
            self.position = up_to.max(self.position);
        }
        outcome
    }

    /// Goes on behind an entry, though not all changes before it are known.
    fn skip_to(&mut self, index: u64) {
        tracing::warn!(
            shard = self.shard,
            position = self.position,
            next = index,
            "changes were missed, streams are reset"
        );
        self.position = index;
        let dispatcher = &self.context.dispatcher;
        dispatcher.skip_to(self.run, self.shard, index);
    }

    fn record_contact(&mut self) {
        self.last_contact = Instant::now();
        self.set_serving(true);
    }

    /// Records that a read has failed, and waits before the next one.
    async fn record_failure(&mut self) {
        if self.last_contact.elapsed() >= LEADER_TIMEOUT {
            self.set_serving(false);
        }
        sleep(RETRY_BACKOFF).await;
    }

    fn set_serving(&mut self, is_serving: bool) {
        if self.is_serving != is_serving {
            self.is_serving = is_serving;
            let dispatcher = &self.context.dispatcher;
            dispatcher.set_serving(self.run, self.shard, is_serving);
        }
    }
}

/// Reads the next page of a shard's changes, or waits for one; `None` if there is no leader.
async fn read_page(
    context: &WatchContext,
    shard: u16,
    after: u64,
    scope: Scope,
) -> Option<Result<ChangesPage, ChangesError>> {
    let range = ChangesRange {
        after,
        up_to: u64::MAX,
        bucket: match &scope {
            Scope::Bucket(bucket) => Some(bucket),
            Scope::All => None,
        },
        filter: None,
        limit: PAGE_CHANGES,
    };
    let read = context.source.changes(shard, range, MAX_CHANGES_WAIT);
    timeout(LEADER_TIMEOUT, read).await.ok()
}
