//! To which node a request goes, and to which one after that.
//!
//! Invariant (unknown fate): a request is sent once more only if it can be repeated at any time
//! (GET, HEAD, OPTIONS), or if it provably was not done: no byte of it was sent, no node can have
//! read it to its end, or the node said 503, which means just that. Otherwise the answer is 504
//! `unknown_outcome`.
//!
//! Invariant: a request for one region stays there, and so does one with a condition, which only
//! one region can judge. Any other one goes to another region only if no node of the current one can
//! be reached: while a shard elects a leader, its nodes hold requests, which is better than a region
//! that may not have seen the client's last write.

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

/// Nodes of a region that are asked, one after the other.
const MOST_TRIES: u32 = 4;

/// A request on its way.
struct Journey<'a> {
    head: &'a Head,
    payload: &'a Payload,
    deadline: Instant,
    /// Counts the tries, in all regions.
    tries: u32,
    turn: u32,
}

/// What a node answered.
enum Reply {
    /// All of it.
    Whole(Response<Bytes>),
    /// Its head; the body comes.
    Coming(Sent),
}

impl Reply {
    /// Whether nothing was done, and another node may know better.
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

/// What came of asking a region.
enum Outcome {
    Answered(Response<Body>),
    /// It may have been done.
    Unknown,
    /// The client broke off within its body, so nothing was done.
    Broken,
    /// Nothing was done, and nobody said why.
    Unreachable,
}

impl Proxy {
    /// Passes a request on, and its answer back.
    pub(super) async fn deliver(
        &self,
        view: &View,
        head: &Head,
        body: RequestBody,
        origin: &Origin,
    ) -> Result<Response<Body>, Refusal> {
        let share = || {
            let peer = origin.peer.ip();
            let is_proxy = self.settings.trusted.iter().any(|it| it.contains(peer));
            let memory = Arc::clone(&self.settings.retry_memory);
            Share::new(memory, (!is_proxy).then_some(peer))
        };
        let payload = Payload::of(body, self.settings.keep, head.waits, share).await;
        let payload = payload.map_err(|_| Refusal::broken_body())?;
        let comes_later = match payload {
            Payload::Empty | Payload::Whole(_) => Duration::ZERO,
            Payload::Coming(_) => self.settings.body_deadline,
        };
        self.budget.deposit();
        let mut journey = Journey {
            head,
            payload: &payload,
            deadline: Instant::now() + self.settings.request_timeout + comes_later,
            tries: 0,
            turn: origin.request,
        };
        self.in_regions(view, &mut journey).await
    }

    /// Asks the region that a request is for, and others if they may answer it.
    async fn in_regions(
        &self,
        view: &View,
        journey: &mut Journey<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let (first, stays) = match journey.head.region {
            Some(region) => (region, true),
            None if journey.head.conditional => (view.current, true),
            None => (view.first_region(), false),
        };
        if !stays && first != view.current {
            self.metrics.detours.increment();
        }
        let mut tried = Vec::new();
        let mut next = Some(first);
        while let Some(place) = next {
            let Some(region) = view.regions.get(place) else {
                break;
            };
            match self.in_region(region, journey).await {
                Outcome::Answered(response) => return Ok(response),
                Outcome::Unknown => {
                    self.metrics.unknown.increment();
                    return Err(Refusal::unknown_outcome());
                }
                Outcome::Broken => return Err(Refusal::broken_body()),
                Outcome::Unreachable if stays => break,
                Outcome::Unreachable => {}
            }
            tried.push(place);
            next = view.next_region(&tried);
            if next.is_some() {
                self.metrics.detours.increment();
            }
        }
        let name = view.regions.get(first).map_or("", |region| &region.name);
        Err(Refusal::unavailable(name))
    }

    /// Asks the nodes of a region until one answers.
    async fn in_region(&self, region: &RegionView, journey: &mut Journey<'_>) -> Outcome {
        let head = journey.head;
        let mut asked = Asked::default();
        let mut refused = None;
        for _ in 0..MOST_TRIES {
            let Some(place) = region.pick(head.shard, &asked, journey.turn) else {
                break;
            };
            asked.add(place);
            let Some(node) = region.nodes.get(place) else {
                break;
            };
            let left = journey.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.may_try(journey) {
                break;
            }
            match self.ask(node, journey, left).await {
                // What is gone can't be sent again; what never came is the client's fault.
                None if journey.payload.is_broken() => return Outcome::Broken,
                None => break,
                Some(Ok(sent)) if sent.is_no_answer() => {
                    // Nothing was done. Perhaps another node knows better; if not, this was it.
                    refused = Some((sent, node));
                }
                Some(Ok(sent)) => return Outcome::Answered(self.relay(sent, node)),
                Some(Err(_)) if journey.payload.is_broken() => return Outcome::Broken,
                Some(Err(fate)) => {
                    if self.is_unknown(&fate, node, head) {
                        return Outcome::Unknown;
                    }
                }
            }
        }
        match refused {
            Some((sent, node)) => Outcome::Answered(self.relay(sent, node)),
            None => Outcome::Unreachable,
        }
    }

    /// Whether a request may be sent, the first time or once more.
    fn may_try(&self, journey: &mut Journey<'_>) -> bool {
        journey.tries += 1;
        if journey.tries == 1 {
            return true;
        }
        if self.budget.withdraw() {
            self.metrics.retries.increment();
            return true;
        }
        self.metrics.retries_denied.increment();
        false
    }

    /// Asks one node; `None` if a part of the body is gone.
    async fn ask(
        &self,
        node: &Arc<Node>,
        journey: &Journey<'_>,
        left: Duration,
    ) -> Option<Result<Reply, Fate>> {
        let head = journey.head;
        let within = if head.repeatable {
            left.min(self.settings.retry_after)
        } else {
            left
        };
        let shard = head.shard;
        tracing::debug!(node = node.id, shard, tries = journey.tries, "ask a node");
        if let Some(whole) = journey.payload.whole().and_then(|body| head.whole(body))
            && let Some(answered) = node.lanes.send(self.worker, whole, within).await
        {
            self.metrics.streamed.increment();
            return Some(answered.map(Reply::Whole));
        }
        let payload = journey.payload;
        let request = || Some(head.request(payload.outgoing()?));
        let order = Try {
            request: &request,
            payload,
            body_first: head.body_first,
        };
        let bounds = Bounds {
            worker: self.worker,
            connections: self.settings.node_connections,
            within,
        };
        // Kept apart: its state is large, and most requests don't come here.
        let sent = Box::pin(send(node, order, bounds)).await?;
        Some(sent.map(Reply::Coming))
    }

    /// Notes that a node didn't answer, and says whether the request may have been done.
    fn is_unknown(&self, fate: &Fate, node: &Node, head: &Head) -> bool {
        tracing::debug!(node = node.id, %fate, "a node didn't answer");
        match fate {
            Fate::NotSent(why) => {
                node.failed(why);
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

    /// A node's answer, on its way back.
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
