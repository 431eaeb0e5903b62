//! One request for server-sent events, and what comes.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Client, Response};
use serde_json::Value;
use tokio::time::timeout;

use super::parser::{EventParser, ServerSentEvent, SseItem};
use crate::http::Bucket;
use crate::response::HttpResponse;

/// Time for the head of a response to come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Longer than a stream may be silent: a comment comes every 15 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// Time that a test waits for an event.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Headers that every event stream must have, with their values.
const STREAM_HEADERS: [(&str, &str); 2] =
    [("cache-control", "no-store"), ("x-accel-buffering", "no")];

/// Opens event streams. Those over HTTP/2 to the same address share a connection.
#[derive(Clone, Debug)]
pub struct EventClient {
    client: Client,
}

impl EventClient {
    /// Creates a client that speaks HTTP/1.1.
    pub fn http1() -> Self {
        // A stream takes its connection along.
        let client = Client::builder().http1_only().pool_max_idle_per_host(0);
        let client = client.no_proxy().connect_timeout(HEAD_TIMEOUT).build();
        Self {
            client: client.expect("make a client"),
        }
    }

    /// Creates a client that speaks HTTP/2 from the first byte (prior knowledge).
    pub fn http2() -> Self {
        let client = Client::builder().http2_prior_knowledge();
        let client = client.no_proxy().connect_timeout(HEAD_TIMEOUT).build();
        Self {
            client: client.expect("make a client"),
        }
    }

    /// Creates a client that speaks HTTP/2, and takes so many bytes of a stream that isn't read.
    pub fn http2_with_window(bytes: u32) -> Self {
        let client = Client::builder().http2_prior_knowledge();
        let client = client.http2_initial_stream_window_size(bytes);
        let client = client.no_proxy().connect_timeout(HEAD_TIMEOUT).build();
        Self {
            client: client.expect("make a client"),
        }
    }

    /// Creates a client that speaks HTTP/1.1 from an address of this machine.
    pub fn from_address(local: Ipv4Addr) -> Self {
        let client = Client::builder().http1_only().pool_max_idle_per_host(0);
        let client = client.no_proxy().local_address(IpAddr::V4(local)).build();
        Self {
            client: client.expect("make a client"),
        }
    }

    /// Sends a request, and returns its stream once the head of the response is there.
    ///
    /// # Errors
    /// Returns an error if an `EventSource` would give up, or if no response comes.
    pub async fn open(&self, request: &EventRequest) -> Result<EventStream, OpenError> {
        let url = format!("http://{}{}", request.address, request.path);
        let mut call = self.client.get(url);
        if !request.headers.iter().any(|(name, _)| name == "accept") {
            call = call.header("accept", "text/event-stream");
        }
        for (name, value) in &request.headers {
            call = call.header(name, value);
        }
        if !request.last_event_id.is_empty() {
            call = call.header("last-event-id", &request.last_event_id);
        }
        let started = Instant::now();
        let response = match timeout(HEAD_TIMEOUT, call.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(OpenError::NoResponse(format!("{error:?}"))),
            Err(_) => return Err(OpenError::NoResponse("no head came in time".to_owned())),
        };
        let is_stream = response.status() == 200;
        let head = HttpResponse {
            status: response.status().as_u16(),
            version: response.version(),
            headers: response.headers().clone(),
            body: Bytes::new(),
            elapsed: started.elapsed(),
        };
        if !is_stream {
            let body = timeout(HEAD_TIMEOUT, response.bytes()).await;
            let Ok(Ok(body)) = body else {
                return Err(OpenError::NoResponse("a refusal broke off".to_owned()));
            };
            let response = HttpResponse { body, ..head };
            return Err(OpenError::Refused(Box::new(response)));
        }
        match head_problem(&head) {
            Some(problem) => Err(OpenError::WrongHead(problem)),
            None => Ok(EventStream::new(head, response)),
        }
    }
}

/// Returns what is wrong with the head of an event stream.
fn head_problem(head: &HttpResponse) -> Option<String> {
    let text = |name: &str| {
        let value = head.headers.get(name).map(|value| value.to_str());
        value.and_then(Result::ok).unwrap_or_default().to_owned()
    };
    let content_type = text("content-type");
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence != "text/event-stream" {
        return Some(format!("content-type is {content_type:?}: {head:?}"));
    }
    for (name, expected) in STREAM_HEADERS {
        if text(name) != expected {
            return Some(format!("{name} isn't {expected:?}: {head:?}"));
        }
    }
    let mut common = ["x-request-id", "x-cloudkv-region"].iter();
    let missing = common.find(|name| text(name).is_empty());
    missing.map(|name| format!("no {name}: {head:?}"))
}

/// A request for an event stream.
#[derive(Clone, Debug)]
pub struct EventRequest {
    /// Address of the node or router.
    pub address: SocketAddr,
    /// Path and query, encoded.
    pub path: String,
    /// Headers beside `Last-Event-ID`. Without `accept`, that of an `EventSource` is added.
    pub headers: Vec<(String, String)>,
    /// `Last-Event-ID`; empty: the header isn't sent.
    pub last_event_id: String,
}

impl EventRequest {
    /// Creates a request without further headers.
    pub fn new(address: SocketAddr, path: &str) -> Self {
        Self {
            address,
            path: path.to_owned(),
            headers: vec![],
            last_event_id: String::new(),
        }
    }

    /// Creates a request for a bucket. `query` is empty, or begins with a question mark.
    pub fn to_bucket(address: SocketAddr, bucket: &Bucket, query: &str) -> Self {
        Self::new(address, &format!("{}{query}", bucket.listing_path()))
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets `Last-Event-ID`.
    pub fn last_event_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.last_event_id);
        self
    }

    /// Opens the stream over HTTP/1.1.
    ///
    /// # Panics
    /// Panics if there is no such stream.
    pub async fn open(&self) -> EventStream {
        self.open_with(&EventClient::http1()).await
    }

    /// Opens the stream over HTTP/1.1, and reads past `ready`, which must be its first event.
    ///
    /// # Panics
    /// Panics if there is no such stream.
    pub async fn open_ready(&self) -> EventStream {
        let mut stream = self.open().await;
        stream.expect("ready").await;
        stream
    }

    /// Opens the stream by this client.
    ///
    /// # Panics
    /// Panics if there is no such stream.
    pub async fn open_with(&self, client: &EventClient) -> EventStream {
        match client.open(self).await {
            Ok(stream) => stream,
            Err(error) => panic!("no stream of {self:?}: {error:?}"),
        }
    }

    /// Sends the request over HTTP/1.1, and returns its refusal.
    ///
    /// # Panics
    /// Panics if it isn't refused.
    pub async fn refusal(&self) -> HttpResponse {
        match EventClient::http1().open(self).await {
            Err(OpenError::Refused(response)) => *response,
            other => panic!("no refusal of {self:?}: {other:?}"),
        }
    }
}

/// A request that led to no stream.
#[derive(Debug)]
pub enum OpenError {
    /// The status isn't 200: an `EventSource` gives up for ever.
    Refused(Box<HttpResponse>),
    /// The status is 200, but the headers aren't those of an event stream.
    WrongHead(String),
    /// No response came, or not all of it: an `EventSource` tries again.
    NoResponse(String),
}

/// Next step of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamStep {
    /// Part of the stream.
    Item(SseItem),
    /// The body has ended as its server wished.
    End,
    /// The connection broke, or was silent for too long.
    Broken(String),
}

/// An event stream that is being received.
#[derive(Debug)]
pub struct EventStream {
    /// Head of the response.
    pub head: HttpResponse,
    response: Response,
    parser: EventParser,
    items: VecDeque<SseItem>,
    comments: Vec<String>,
    retry: Option<Duration>,
    last_event_id: Option<String>,
}

impl EventStream {
    fn new(head: HttpResponse, response: Response) -> Self {
        Self {
            head,
            response,
            parser: EventParser::new(),
            items: VecDeque::new(),
            comments: vec![],
            retry: None,
            last_event_id: None,
        }
    }

    /// Returns the last event ID, if what was returned so far has set one: empty, if there was a
    /// blank line before the first `id`.
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// Returns the time after which the client is to reconnect, if the stream has told one.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Returns the comments so far.
    pub fn comments(&self) -> &[String] {
        &self.comments
    }

    /// Returns what comes next. Cancel safe.
    pub async fn next(&mut self) -> StreamStep {
        loop {
            if let Some(item) = self.items.pop_front() {
                match &item {
                    SseItem::Comment(comment) => self.comments.push(comment.clone()),
                    SseItem::Retry(retry) => self.retry = Some(*retry),
                    SseItem::Event(event) => {
                        self.last_event_id = Some(event.last_event_id.clone());
                    }
                    SseItem::Position(id) => self.last_event_id = Some(id.clone()),
                }
                return StreamStep::Item(item);
            }
            match timeout(SILENCE_TIMEOUT, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.items.extend(self.parser.push(&bytes)),
                Ok(Ok(None)) => return StreamStep::End,
                Ok(Err(error)) => return StreamStep::Broken(format!("{error:?}")),
                Err(_) => return StreamStep::Broken("nothing came for too long".to_owned()),
            }
        }
    }

    /// Returns the next event, past comments, positions and `retry`; `None` at the end.
    ///
    /// # Panics
    /// Panics if none comes in time, or if the connection breaks.
    pub async fn next_event(&mut self) -> Option<ServerSentEvent> {
        let next = timeout(EVENT_TIMEOUT, async {
            loop {
                match self.next().await {
                    StreamStep::Item(SseItem::Event(event)) => return Some(event),
                    StreamStep::Item(_) => {}
                    StreamStep::End => return None,
                    StreamStep::Broken(error) => panic!("the stream broke: {error}"),
                }
            }
        });
        match next.await {
            Ok(event) => event,
            Err(_) => panic!("no event for {EVENT_TIMEOUT:?} behind {:?}", self.comments),
        }
    }

    /// Returns the next event, which must have this type and an ID of its own.
    ///
    /// # Panics
    /// Panics if another comes, or none.
    pub async fn expect(&mut self, name: &str) -> ServerSentEvent {
        match self.next_event().await {
            Some(event) if event.name == name => {
                assert!(event.has_id, "an event has an id: {event:?}");
                event
            }
            other => panic!("{name} was expected: {other:?} {:?}", self.comments),
        }
    }

    /// Returns the data of the next event, which must have this type.
    ///
    /// # Panics
    /// Panics if another comes, or none.
    pub async fn expect_data(&mut self, name: &str) -> Value {
        let event = self.expect(name).await;
        assert!(!event.data.contains('\n'), "data is one line: {event:?}");
        match serde_json::from_str(&event.data) {
            Ok(data) => data,
            Err(error) => panic!("no JSON: {error}: {event:?}"),
        }
    }

    /// Reads so many events of different keys, in any order: by key, the type and the data of each.
    ///
    /// # Panics
    /// Panics if others come, or fewer.
    pub async fn take_by_name(&mut self, count: usize) -> BTreeMap<String, (String, Value)> {
        let mut events = BTreeMap::new();
        for _ in 0..count {
            let event = self.next_event().await;
            let event = event.unwrap_or_else(|| panic!("the stream ended: {:?}", self.comments));
            let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
            let Some(name) = data["name"].as_str().map(str::to_owned) else {
                panic!("an event of a key was expected: {event:?}");
            };
            let other = events.insert(name, (event.name, data));
            assert!(other.is_none(), "two events of a key: {other:?} {events:?}");
        }
        events
    }

    /// Waits for the end of the body, with no event before it, and returns the comments.
    ///
    /// # Panics
    /// Panics if an event comes, or no end.
    pub async fn expect_end(&mut self) -> Vec<String> {
        match self.next_event().await {
            None => self.comments.clone(),
            Some(event) => panic!("the end was expected: {event:?}"),
        }
    }
}
