//! One client thread: an epoll loop over its connections.
//!
//! A request costs one `write`, one `read` and a share of an `epoll_wait`, two reads of the clock
//! and no allocation: on two cores the client's own time counts.

use super::batch_answer;
use super::connection::{Connection, InFlight};
use super::keys::KeySource;
use super::pacer::{Pacer, TIMER};
use super::spec::LoadSpec;
use super::stats::Stats;
use super::window::MeasureWindow;
use crate::request_template::RequestTemplate;
use crate::workload::{Dialect, Operation, is_valid_value};
use anyhow::{Context, Result, bail};
use mio::{Events, Interest, Poll, Token};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Maximum wait for outstanding responses after the window.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Delay before a failed key is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(20);
/// Interval at which the clock is checked even without events.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);

/// Connections and counters of one thread.
pub(super) struct Worker<'a> {
    spec: &'a LoadSpec,
    window: MeasureWindow,
    /// Index of this thread's first connection among those of the run.
    first_connection: usize,
    template: RequestTemplate,
    source: KeySource,
    poll: Poll,
    connections: Vec<Connection>,
    stats: Stats,
    progress: &'a AtomicU64,
    pacer: Option<Pacer>,
}

impl<'a> Worker<'a> {
    /// Opens thread `index`'s share of the connections.
    pub(super) fn connect(
        spec: &'a LoadSpec,
        window: MeasureWindow,
        index: usize,
        progress: &'a AtomicU64,
    ) -> Result<Self> {
        let poll = Poll::new().context("create epoll")?;
        let share = (index..spec.connections).step_by(spec.threads).count();
        let mut worker = Self {
            template: template(spec)?,
            first_connection: index,
            source: KeySource::new(
                spec.keys,
                index as u64,
                spec.threads as u64,
                spec.random_seed,
            ),
            connections: Vec::with_capacity(share),
            stats: Stats::new()?,
            pacer: Pacer::for_thread(spec, window, poll.registry())?,
            spec,
            window,
            poll,
            progress,
        };
        for token in 0..share {
            let connection = worker.open(token)?;
            worker.connections.push(connection);
        }
        Ok(worker)
    }

    /// Runs until the window ends or all keys are done.
    pub(super) fn run(mut self) -> Result<Stats> {
        let mut events = Events::with_capacity(self.connections.len().max(1));
        let mut last_retry = Instant::now();
        self.send_on_all(last_retry)?;
        while self.has_work(Instant::now()) {
            if let Some(pace) = &mut self.pacer {
                pace.arm(Instant::now())?;
            }
            self.poll
                .poll(&mut events, Some(POLL_TIMEOUT))
                .or_else(ignore_interrupt)?;
            let done = self.stats.done;
            for event in events.iter().filter(|event| event.token() != TIMER) {
                self.handle_ready(event.token().0)?;
            }
            self.send_due(Instant::now())?;
            self.progress
                .fetch_add(self.stats.done - done, Ordering::Relaxed);
            if self.source.has_failed() && last_retry.elapsed() > RETRY_DELAY {
                self.source.retry_failed();
                last_retry = Instant::now();
                self.send_on_all(last_retry)?;
            }
            self.check_errors()?;
        }
        Ok(self.stats)
    }

    /// After the window, outstanding responses are awaited: webdis mixes up responses when
    /// connections close under it, and the next cell would pay for the requests left behind.
    fn has_work(&self, now: Instant) -> bool {
        let mut connections = self.connections.iter();
        let is_idle = connections.all(|connection| connection.in_flight.is_empty());
        if self.window.is_over(now) {
            !is_idle && !self.window.is_over(now - DRAIN_TIMEOUT)
        } else {
            !is_idle || self.pacer.is_some() || self.source.has_failed()
        }
    }

    fn send_on_all(&mut self, now: Instant) -> Result<()> {
        (0..self.connections.len()).try_for_each(|token| self.send(token, now))
    }

    fn check_errors(&self) -> Result<()> {
        let errors = &self.stats.errors;
        if errors.total() > self.spec.max_errors {
            let first = errors.first.as_deref().unwrap_or_default();
            bail!(
                "more than {} errors; the first: {first}",
                self.spec.max_errors
            );
        }
        Ok(())
    }

    /// Handles readiness of one connection; a broken one is replaced.
    fn handle_ready(&mut self, token: usize) -> Result<()> {
        let Err(error) = self.exchange(token) else {
            return Ok(());
        };
        let mut connection = self.open(token)?;
        std::mem::swap(&mut connection, &mut self.connections[token]);
        self.stats.errors.lost += connection.in_flight.len().max(1) as u64;
        self.stats.errors.record_first(|| format!("{error:#}"));
        connection
            .in_flight
            .iter()
            .for_each(|request| self.source.record_failure(request.key));
        self.send(token, Instant::now())
    }

    fn exchange(&mut self, token: usize) -> Result<()> {
        loop {
            let connection = &mut self.connections[token];
            let more = connection.read_input()?;
            let now = Instant::now();
            while let Some((request, status, body)) = self.connections[token].next_response()? {
                let response = ReceivedResponse { status, body };
                response.record(
                    request,
                    now,
                    self.spec,
                    self.window,
                    &mut self.stats,
                    &mut self.source,
                );
            }
            if !more {
                return self.send(token, now);
            }
        }
    }

    /// Fills the connection up to its depth and writes; with a rate, waits until a request is due.
    fn send(&mut self, token: usize, now: Instant) -> Result<()> {
        if let Some(pace) = &mut self.pacer {
            let connection = &mut self.connections[token];
            if connection.in_flight.is_empty() {
                pace.enqueue(token);
            }
            return connection.flush();
        }
        self.send_requests(token, now)
    }

    /// Sends the requests that are due.
    fn send_due(&mut self, now: Instant) -> Result<()> {
        while let Some(token) = self.pacer.as_mut().and_then(|pace| pace.pop_due(now)) {
            self.send_requests(token, now)?;
        }
        Ok(())
    }

    fn send_requests(&mut self, token: usize, now: Instant) -> Result<()> {
        let connection = &mut self.connections[token];
        while connection.in_flight.len() < self.spec.depth && !self.window.is_over(now) {
            let Some((key, random_seed)) = self.source.next() else {
                break;
            };
            if let Some(times) = &self.spec.sent_times {
                times.record(key, now);
            }
            let seed = self.spec.value_seed.unwrap_or(random_seed);
            self.template.append(&mut connection.output, key, seed);
            connection.in_flight.push_back(InFlight { key, sent: now });
        }
        connection.flush()
    }

    fn open(&self, token: usize) -> Result<Connection> {
        let addrs = &self.spec.addrs;
        let number = self.first_connection + token * self.spec.threads;
        let mut connection = Connection::open(addrs[number % addrs.len()])?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut connection.stream, Token(token), interest)?;
        Ok(connection)
    }
}

fn template(spec: &LoadSpec) -> Result<RequestTemplate> {
    let host = spec.addrs.first().context("an address")?.to_string();
    let (prefix, suffix) = (spec.path_prefix.as_str(), spec.path_suffix.as_str());
    let (operation, digits, size) = (spec.operation, spec.digits, spec.value_size);
    let template = match spec.dialect {
        Dialect::Paths => RequestTemplate::new(operation, &host, (prefix, suffix), digits, size),
        Dialect::Etcd => RequestTemplate::etcd(operation, &host, digits, size),
        Dialect::Batches => RequestTemplate::batch(&host, prefix, digits, size, spec.batch_size),
    };
    Ok(if spec.text {
        template.with_letters()
    } else {
        template
    })
}

struct ReceivedResponse<'a> {
    status: u16,
    body: &'a [u8],
}

impl ReceivedResponse<'_> {
    fn record(
        &self,
        request: InFlight,
        now: Instant,
        spec: &LoadSpec,
        window: MeasureWindow,
        stats: &mut Stats,
        source: &mut KeySource,
    ) {
        if !(200..300).contains(&self.status) {
            *stats.errors.status.entry(self.status).or_default() += 1;
            stats.errors.record_first(|| self.describe(request.key));
            if self.is_retryable() {
                source.record_failure(request.key);
            }
        } else if !self.has_valid_body(request.key, spec) {
            stats.errors.wrong_body += 1;
            stats.errors.record_first(|| self.describe(request.key));
        } else if window.contains(now) {
            stats.record_success(now.saturating_duration_since(request.sent));
        }
    }

    /// Returns whether a retry may succeed: not for a missing key, for example.
    fn is_retryable(&self) -> bool {
        self.status >= 500 || self.status == 429
    }

    fn has_valid_body(&self, key: u64, spec: &LoadSpec) -> bool {
        match (spec.dialect, spec.operation, spec.verify) {
            (Dialect::Batches, _, _) => {
                let first_key = key * spec.batch_size as u64;
                batch_answer::are_all_written(self.body, first_key, spec.batch_size)
            }
            (Dialect::Paths | Dialect::Etcd, Operation::Put, _) => true,
            // The value in base64 and metadata; without a value the body is far shorter.
            (Dialect::Etcd, Operation::Get, _) => self.body.len() > spec.value_size,
            (Dialect::Paths, Operation::Get, false) => self.body.len() == spec.value_size,
            (Dialect::Paths, Operation::Get, true) => {
                self.body.len() == spec.value_size
                    && is_valid_value(self.body, key, spec.value_seed)
            }
        }
    }

    fn describe(&self, key: u64) -> String {
        let start = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
        let (status, length) = (self.status, self.body.len());
        format!("key {key}: status {status}, {length} bytes of body: {start}")
    }
}

fn ignore_interrupt(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        std::io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}
