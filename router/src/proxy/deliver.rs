//! Forwards a request to a node, and to further ones if that fails.
//!
//! Invariant (unknown outcome): a request is retried only if it is safe (GET, HEAD, OPTIONS), or if
//! it provably was not executed: no byte of it was sent, no node can have read it completely, or
//! the node responded 503, which means just that. Otherwise the response is 504 `unknown_outcome`.
//!
//! Invariant: a request for one region stays there, and so does one with a condition, which only
//! one region can evaluate. Any other one goes to another region only if no node of the current one
//! is reachable: while a shard elects a leader, its nodes queue requests, which is better than a
//! region that may not have the client's last write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_common::server::{Origin, RequestBody, Settled};
use http::{Response, StatusCode};

use super::head::Head;
use super::refusal::Refusal;
use super::relay::Body;
use super::{Proxy, hops};
use crate::topology::{Asked, Node, RegionView, View};
use crate::upstream::{Bounds, Fate, Payload, Sent, Share, Try, send};

/// Maximum number of nodes of a region that are tried, one after the other.
const MOST_TRIES: u32 = 4;

/// The forward attempts of one request.
struct Journey<'a> {
    head: &'a Head,
    payload: &'a Payload,
    deadline: Instant,
    /// Number of attempts, over all regions.
    tries: u32,
    turn: u32,
}

/// Response of a node.
enum Reply {
    /// The complete response.
    Whole(Response<Bytes>),
    /// The head, with a body that is still arriving.
    Coming(Sent),
}

impl Reply {
    /// Returns whether the request was not executed, and another node may succeed.
    fn is_no_answer(&self) -> bool {
        match self {
            Self::Whole(response) => {
                response.status() == StatusCode::SERVICE_UNAVAILABLE
                    && response.extensions().get::<Settled>().is_none()
            }
            Self::Coming(sent) => sent.response.status() == StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Outcome of the attempts in one region.
enum Outcome {
    Answered(Response<Body>),
    /// The request may have been executed.
    Unknown,
    /// The client aborted its body, so the request was not executed.
    Broken,
    /// No node responded, and the request was not executed.
    Unreachable,
}

impl Proxy {
    /// Forwards a request, and returns its response.
    pub(super) async fn deliver(
        &self,
        view: &View,
        head: &Head,
        body: RequestBody,
        origin: &Origin,
    ) -> Result<Response<Body>, Refusal> {
        let memory = || {
            let peer = origin.peer.ip();
            let is_proxy = self.settings.trusted.iter().any(|it| it.contains(peer));
            let memory = Arc::clone(&self.settings.retry_memory);
            Share::new(memory, (!is_proxy).then_some(peer))
        };
        let payload = Payload::of(body, self.settings.keep, head.waits, memory).await;
        let payload = payload.map_err(|_| Refusal::broken_body())?;
        let body_time = match payload {
            Payload::Empty | Payload::Whole(_) => Duration::ZERO,
            Payload::Coming(_) => self.settings.body_deadline,
        };
        self.budget.deposit();
        let mut attempts = Journey {
            head,
            payload: &payload,
            deadline: Instant::now() + self.settings.request_timeout + body_time,
            tries: 0,
            turn: origin.request,
        };
        self.in_regions(view, &mut attempts).await
    }

    /// Tries the region that a request is for, and others if they may respond.
    async fn in_regions(
        &self,
        view: &View,
        attempts: &mut Journey<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let (first, is_pinned) = match attempts.head.region {
            Some(region) => (region, true),
            None if attempts.head.conditional => (view.current, true),
            None => (view.first_region(), false),
        };
        if !is_pinned && first != view.current {
            self.metrics.detours.increment();
        }
        let mut tried = Vec::new();
        let mut next = Some(first);
        while let Some(index) = next {
            let Some(region) = view.regions.get(index) else {
                break;
            };
            match self.in_region(region, attempts).await {
                Outcome::Answered(response) => return Ok(response),
                Outcome::Unknown => {
                    self.metrics.unknown.increment();
                    return Err(Refusal::unknown_outcome());
                }
                Outcome::Broken => return Err(Refusal::broken_body()),
                Outcome::Unreachable if is_pinned => break,
                Outcome::Unreachable => {}
            }
            tried.push(index);
            next = view.next_region(&tried);
            if next.is_some() {
                self.metrics.detours.increment();
            }
        }
        let name = view.regions.get(first).map_or("", |region| &region.name);
        Err(Refusal::unavailable(name))
    }

    /// Tries the nodes of a region until one responds.
    async fn in_region(&self, region: &RegionView, attempts: &mut Journey<'_>) -> Outcome {
        let head = attempts.head;
        let mut tried = Asked::default();
        let mut unavailable = None;
        for _ in 0..MOST_TRIES {
            let Some(index) = region.pick(head.shard, &tried, attempts.turn) else {
                break;
            };
            tried.add(index);
            let Some(node) = region.nodes.get(index) else {
                break;
            };
            let remaining = attempts.deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() || !self.may_try(attempts) {
                break;
            }
            match self.ask(node, attempts, remaining).await {
                // A body that isn't buffered can't be sent again; an aborted one is the client's
                // fault.
                None if attempts.payload.is_broken() => return Outcome::Broken,
                None => break,
                Some(Ok(response)) if response.is_no_answer() => {
                    // Not executed. If no other node succeeds, this is the response.
                    unavailable = Some((response, node));
                }
                Some(Ok(response)) => return Outcome::Answered(self.relay(response, node)),
                Some(Err(_)) if attempts.payload.is_broken() => return Outcome::Broken,
                Some(Err(error)) => {
                    if self.is_unknown(&error, node, head) {
                        return Outcome::Unknown;
                    }
                }
            }
        }
        match unavailable {
            Some((response, node)) => Outcome::Answered(self.relay(response, node)),
            None => Outcome::Unreachable,
        }
    }

    /// Returns whether a request may be sent: the first time, or again within the retry budget.
    fn may_try(&self, attempts: &mut Journey<'_>) -> bool {
        attempts.tries += 1;
        if attempts.tries == 1 {
            return true;
        }
        if self.budget.withdraw() {
            self.metrics.retries.increment();
            return true;
        }
        self.metrics.retries_denied.increment();
        false
    }

    /// Sends a request to one node; `None` if a part of the body is no longer buffered.
    async fn ask(
        &self,
        node: &Arc<Node>,
        attempts: &Journey<'_>,
        remaining: Duration,
    ) -> Option<Result<Reply, Fate>> {
        let head = attempts.head;
        let timeout = if head.repeatable {
            remaining.min(self.settings.retry_after)
        } else {
            remaining
        };
        let shard = head.shard;
        tracing::debug!(
            node = node.id,
            shard,
            attempt = attempts.tries,
            "forwarding request"
        );
        if let Some(buffered) = attempts.payload.whole().and_then(|body| head.whole(body))
            && let Some(outcome) = node.lanes.send(self.worker, buffered, timeout).await
        {
            self.metrics.streamed.increment();
            return Some(outcome.map(Reply::Whole));
        }
        let payload = attempts.payload;
        let build_request = || Some(head.request(payload.outgoing()?));
        let request = Try {
            request: &build_request,
            payload,
            body_first: head.body_first,
        };
        let limits = Bounds {
            worker: self.worker,
            connections: self.settings.node_connections,
            within: timeout,
        };
        // Boxed, since its state is large, and most requests don't get here.
        let sent = Box::pin(send(node, request, limits)).await?;
        Some(sent.map(Reply::Coming))
    }

    /// Records the failure of a node. Returns whether the request may have been executed.
    fn is_unknown(&self, error: &Fate, node: &Node, head: &Head) -> bool {
        tracing::debug!(node = node.id, %error, "forward attempt failed");
        match error {
            Fate::NotSent(reason) => {
                node.failed(reason);
                false
            }
            Fate::Busy => false,
            Fate::Unread(_) => {
                node.doubt();
                false
            }
            Fate::Lost(_) | Fate::TimedOut => {
                node.doubt();
                !head.repeatable
            }
        }
    }

    /// Builds the response to the client from that of a node.
    fn relay(&self, reply: Reply, node: &Arc<Node>) -> Response<Body> {
        let sent = match reply {
            Reply::Whole(response) => return response.map(Body::whole),
            Reply::Coming(sent) => sent,
        };
        let (mut parts, body) = Body::of(sent, node.clone(), self.worker);
        hops::strip(&mut parts.headers);
        parts.version = http::Version::HTTP_11;
        Response::from_parts(parts, body)
    }
}
