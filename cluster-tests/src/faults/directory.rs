//! Buckets under faults: one that was created is listed from then on, by every node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::client::{PATIENCE, Shared};
use super::line::{Line, Reply};
use crate::harness::{Answer, Bucket, RawRequest};
use crate::rng::Rng;

/// More than these would only make the lists long.
const MOST: usize = 300;

/// Between two calls.
const PAUSE: std::ops::Range<u64> = 50..400;

/// A client that creates buckets and lists them. It alone uses its account.
pub(super) struct DirectoryClient {
    shared: Arc<Shared>,
    account: String,
    lines: Vec<Line>,
    rng: Rng,
    /// The notes of buckets whose creation was acknowledged, and of those that may exist.
    acknowledged: BTreeSet<String>,
    possible: BTreeSet<String>,
    /// How many lists were as they must be.
    pub lists: u64,
}

impl DirectoryClient {
    /// A client of the account of this bucket, which is the account's first one.
    pub fn new(shared: &Arc<Shared>, first: &Bucket, seed: u64) -> Self {
        let lines = shared.nodes.iter();
        Self {
            shared: shared.clone(),
            account: first.account.clone(),
            lines: lines.map(|node| Line::new(*node, PATIENCE)).collect(),
            rng: Rng::branch(seed, 0xd12),
            acknowledged: BTreeSet::new(),
            possible: BTreeSet::new(),
            lists: 0,
        }
    }

    /// Calls until the run is stopped.
    pub async fn run(mut self) -> Self {
        while !self.shared.stopped() {
            let seat = self.rng.index(self.lines.len());
            if self.possible.len() < MOST && self.rng.permille(500) {
                self.create(seat).await;
            } else {
                self.list(seat).await;
            }
            tokio::time::sleep(self.rng.millis(PAUSE)).await;
        }
        self
    }

    /// Lists through every node, when all is well again.
    pub async fn finish(&mut self) {
        for seat in 0..self.lines.len() {
            let before = self.lists;
            for _ in 0..200 {
                self.list(seat).await;
                if self.lists > before {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if self.lists == before {
                let what = format!("node {seat} doesn't list buckets at the end");
                self.shared.ledger.odd(what);
            }
        }
    }

    async fn create(&mut self, seat: usize) {
        let note = format!("bucket-{}", self.possible.len());
        self.possible.insert(note.clone());
        let path = format!("/buckets?plan=pro&comment={note}");
        let request = RawRequest::new("POST", &path).header("api-key", &self.account);
        match self.lines[seat].exchange(&request.body(b"")).await {
            Reply::Answer(answer) if answer.status == 201 => {
                self.acknowledged.insert(note);
            }
            Reply::Answer(answer) => self.must_be_unavailable(seat, &answer),
            Reply::NotSent | Reply::Closed | Reply::Lost => {}
        }
    }

    async fn list(&mut self, seat: usize) {
        let request = RawRequest::new("GET", "/buckets").header("api-key", &self.account);
        let must = self.acknowledged.clone();
        let answer = match self.lines[seat].exchange(&request).await {
            Reply::Answer(answer) if answer.status == 200 => answer,
            Reply::Answer(answer) => return self.must_be_unavailable(seat, &answer),
            Reply::NotSent | Reply::Closed | Reply::Lost => return,
        };
        let buckets = answer.json()["buckets"].take();
        let notes = buckets.as_array().into_iter().flatten();
        let notes = notes.filter_map(|bucket| bucket["comment"].as_str().map(str::to_owned));
        let notes: BTreeSet<String> = notes.collect();
        if must.is_subset(&notes) && notes.is_subset(&self.possible) {
            self.lists += 1;
        } else {
            let lost: Vec<_> = must.difference(&notes).collect();
            let invented: Vec<_> = notes.difference(&self.possible).collect();
            let what = format!("the list of node {seat} lacks {lost:?} and invents {invented:?}");
            self.shared.ledger.odd(what);
        }
    }

    fn must_be_unavailable(&self, seat: usize, answer: &Answer) {
        if !matches!(answer.status, 503 | 504) {
            let code: Value = answer.json()["error"].take();
            let what = format!("node {seat} answers {code} to the owner: {answer:?}");
            self.shared.ledger.odd(what);
        }
    }
}
