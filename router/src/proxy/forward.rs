//! Forwards a request to a node, and to further ones if that fails.
//!
//! Invariant (unknown outcome): a request is retried only if it is safe (GET, HEAD, OPTIONS), or if
//! it provably was not executed: no byte of it was sent, no node can have read it completely, or
//! the node responded 503, which means just that. Otherwise the response is 504 `unknown_outcome`.
//!
//! Invariant: a request for one region stays there. One with a condition, which only one region can
//! evaluate, a batch, whose operations may have some, an export and an import stay in the current
//! region. Any other one goes to another region only if no node of the current one is reachable:
//! while a shard elects a leader, its nodes queue requests, which is better than a region that may
//! not have the client's last write.
//!
//! Deadlines hold until a response begins. How long it then takes, and the rest of its request's
//! body, which an import's node reads meanwhile, is up to its node and its client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_common::server::{Authoritative, RequestBody, RequestOrigin};
use http::{Response, StatusCode};

use super::forwarding_headers;
use super::metrics::ProxyMetrics;
use super::refusal::Refusal;
use super::relay::ResponseBody;
use super::request_head::RequestHead;
use super::request_kind::RequestKind;
use super::retry_budget::RetryBudget;
use super::settings::ProxySettings;
use crate::topology::{RegionView, TopologyView, TriedNodes};
use crate::upstream::{
    BodyMemory, Node, NodeRequest, NodeResponse, RequestPayload, SendError, SendLimits, send,
};

/// Maximum number of nodes of a region that are tried, one after the other.
const MAX_ATTEMPTS_PER_REGION: u32 = 4;

/// Time for a batch, in timeouts of a request: nodes write one key time after time, if it asks so.
const BATCH_TIMEOUT_FACTOR: u32 = 3;

/// The forward attempts of one request.
struct ForwardAttempts<'a> {
    head: &'a RequestHead,
    payload: &'a RequestPayload,
    deadline: Instant,
    /// Number of attempts, over all regions.
    count: u32,
    rotation: u32,
}

/// Response of a node.
enum ForwardReply {
    /// The complete response.
    Buffered(Response<Bytes>),
    /// The head, with a body that is still arriving.
    Streaming(NodeResponse),
}

impl ForwardReply {
    /// Returns whether the request was not executed, and another node may succeed.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Buffered(response) => {
                response.status() == StatusCode::SERVICE_UNAVAILABLE
                    && response.extensions().get::<Authoritative>().is_none()
            }
            Self::Streaming(sent) => sent.response.status() == StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Outcome of the attempts in one region.
enum Outcome {
    Responded(Response<ResponseBody>),
    /// The request may have been executed.
    Unknown,
    /// The client aborted its body, so the request was not executed, except for what an import had.
    Aborted,
    /// No node responded, and the request was not executed.
    Unreachable,
}

/// Forwards the requests of one thread.
pub(super) struct Forwarder {
    /// Number of the thread.
    pub worker: usize,
    pub settings: Arc<ProxySettings>,
    pub retry_budget: Arc<RetryBudget>,
    pub metrics: Arc<ProxyMetrics>,
}

impl Forwarder {
    /// Forwards a request, and returns its response.
    pub(super) async fn forward(
        &self,
        view: &TopologyView,
        head: &RequestHead,
        body: RequestBody,
        origin: &RequestOrigin,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let memory = || {
            let peer = origin.peer.ip();
            let is_proxy = self
                .settings
                .trusted_proxies
                .iter()
                .any(|it| it.contains(&peer.to_canonical()));
            let memory = Arc::clone(&self.settings.retry_memory);
            BodyMemory::new(memory, (!is_proxy).then_some(peer))
        };
        let payload = RequestPayload::read(
            body,
            self.settings.retry_buffer_bytes,
            head.expects_continue,
            memory,
        )
        .await;
        let payload = payload.map_err(|_| Refusal::aborted_body())?;
        let body_time = match payload {
            RequestPayload::Empty | RequestPayload::Buffered(_) => Duration::ZERO,
            RequestPayload::Streaming(_) => self.settings.body_deadline,
        };
        self.retry_budget.deposit();
        let factor = match head.kind {
            RequestKind::Batch => BATCH_TIMEOUT_FACTOR,
            _ => 1,
        };
        let mut attempts = ForwardAttempts {
            head,
            payload: &payload,
            deadline: Instant::now() + factor * self.settings.request_timeout + body_time,
            count: 0,
            // A client may use each connection for one request only, as for a watch.
            rotation: origin.connection.wrapping_add(origin.request),
        };
        self.try_regions(view, &mut attempts).await
    }

    /// Tries the region that a request is for, and others if they may respond.
    async fn try_regions(
        &self,
        view: &TopologyView,
        attempts: &mut ForwardAttempts<'_>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let (first, is_pinned) = match attempts.head.region {
            Some(region) => (region, true),
            None if attempts.head.is_for_current_region => (view.current, true),
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
            match self.try_region(region, attempts).await {
                Outcome::Responded(response) => return Ok(response),
                Outcome::Unknown => {
                    self.metrics.unknown_outcomes.increment();
                    return Err(Refusal::unknown_outcome());
                }
                Outcome::Aborted => return Err(Refusal::aborted_body()),
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
    async fn try_region(&self, region: &RegionView, attempts: &mut ForwardAttempts<'_>) -> Outcome {
        let head = attempts.head;
        let mut tried = TriedNodes::default();
        let mut unavailable = None;
        for _ in 0..MAX_ATTEMPTS_PER_REGION {
            let Some(index) = region.pick_node(head.shard, &tried, attempts.rotation) else {
                break;
            };
            tried.add(index);
            let Some(node) = region.nodes.get(index) else {
                break;
            };
            let remaining = attempts.deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() || !self.may_attempt(attempts) {
                break;
            }
            match self.send_to_node(node, attempts, remaining).await {
                // A body that isn't buffered can't be sent again; an aborted one is the client's
                // fault.
                None if attempts.payload.is_aborted() => return Outcome::Aborted,
                None => break,
                Some(Ok(response)) if response.is_retryable() => {
                    // Not executed. If no other node succeeds, this is the response.
                    unavailable = Some((response, node));
                }
                Some(Ok(response)) => {
                    return Outcome::Responded(self.relay_response(response, node));
                }
                Some(Err(_)) if attempts.payload.is_aborted() => return Outcome::Aborted,
                Some(Err(error)) => {
                    if self.record_failure(&error, node, head) {
                        return Outcome::Unknown;
                    }
                }
            }
        }
        match unavailable {
            Some((response, node)) => Outcome::Responded(self.relay_response(response, node)),
            None => Outcome::Unreachable,
        }
    }

    /// Returns whether a request may be sent: the first time, or again within the retry budget.
    fn may_attempt(&self, attempts: &mut ForwardAttempts<'_>) -> bool {
        attempts.count += 1;
        if attempts.count == 1 {
            return true;
        }
        if self.retry_budget.withdraw() {
            self.metrics.retries.increment();
            return true;
        }
        self.metrics.retries_denied.increment();
        false
    }

    /// Sends a request to one node; `None` if a part of the body is no longer buffered.
    async fn send_to_node(
        &self,
        node: &Arc<Node>,
        attempts: &ForwardAttempts<'_>,
        remaining: Duration,
    ) -> Option<Result<ForwardReply, SendError>> {
        let head = attempts.head;
        // An export that was begun elsewhere meanwhile would run twice.
        let timeout = if head.is_safe && head.kind != RequestKind::Export {
            remaining.min(self.settings.attempt_timeout)
        } else {
            remaining
        };
        let shard = head.shard;
        tracing::debug!(
            node = u64::from(node.id),
            shard,
            attempt = attempts.count,
            "forwarding request"
        );
        if let Some(buffered) = attempts
            .payload
            .buffered()
            .and_then(|body| head.buffered(body))
            && let Some(outcome) = node.streams.send(self.worker, buffered, timeout).await
        {
            self.metrics.streamed.increment();
            return Some(outcome.map(ForwardReply::Buffered));
        }
        let payload = attempts.payload;
        let build_request = || Some(head.to_request(payload.attempt_body()?));
        let request = NodeRequest {
            build: &build_request,
            payload,
            is_body_read_first: head.is_body_read_first,
            is_body_read_on: head.kind == RequestKind::Import,
        };
        let limits = SendLimits {
            worker: self.worker,
            max_connections: self.settings.max_node_connections,
            timeout,
        };
        // Boxed, since its state is large, and most requests don't get here.
        let sent = Box::pin(send(node, request, limits)).await?;
        Some(sent.map(ForwardReply::Streaming))
    }

    /// Records the failure of a node. Returns whether the request may have been executed.
    fn record_failure(&self, error: &SendError, node: &Node, head: &RequestHead) -> bool {
        tracing::debug!(node = u64::from(node.id), %error, "forward attempt failed");
        match error {
            SendError::NotSent(reason) => {
                node.record_failure(reason);
                false
            }
            SendError::Busy => false,
            SendError::NotRead(_) => {
                node.request_check();
                false
            }
            SendError::Lost(_) | SendError::TimedOut => {
                node.request_check();
                !head.is_safe
            }
        }
    }

    /// Builds the response to the client from that of a node.
    fn relay_response(&self, reply: ForwardReply, node: &Arc<Node>) -> Response<ResponseBody> {
        let sent = match reply {
            ForwardReply::Buffered(response) => return response.map(ResponseBody::buffered),
            ForwardReply::Streaming(sent) => sent,
        };
        let (mut parts, body) = ResponseBody::from_node(sent, node.clone(), self.worker);
        forwarding_headers::strip_hop_by_hop(&mut parts.headers);
        parts.version = http::Version::HTTP_11;
        Response::from_parts(parts, body)
    }
}
