//! The task of a [`WatchClient`](super::WatchClient): connects, feeds the model, and reconnects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::client_state::SharedClient;
use super::event_stream::{EventClient, EventRequest, EventStream, OpenError, StreamStep};
use super::listing::list_bucket;
use super::model::ModelStep;
use super::options::WatchOptions;
use super::parser::{ServerSentEvent, SseItem};
use crate::http::ApiClient;

/// Time before an `EventSource` reconnects if no server has told it one.
const DEFAULT_RETRY: Duration = Duration::from_secs(3);

/// Time between two attempts to list the bucket.
const LIST_RETRY: Duration = Duration::from_millis(100);

/// Runs until an `EventSource` would give up, or a server does what it may not.
pub(super) async fn run(client: Arc<SharedClient>) {
    let options = &client.options;
    let opener = if options.is_http2 {
        EventClient::http2()
    } else {
        EventClient::http1()
    };
    let path = path(options);
    let mut retry = DEFAULT_RETRY;
    for address in options.addresses.iter().cycle() {
        let request = EventRequest {
            address: *address,
            path: path.clone(),
            headers: options.headers.clone(),
            last_event_id: client.state().last_event_id.clone(),
        };
        match opener.open(&request).await {
            Ok(mut stream) => {
                let flow = follow(&client, &mut stream, *address).await;
                retry = stream.retry().unwrap_or(retry);
                if flow.is_none() {
                    return;
                }
            }
            Err(error) => {
                if fail_request(&client, error).is_none() {
                    return;
                }
            }
        }
        // A request to reconnect, if there is one, has been met already.
        let delay = retry.min(options.max_retry);
        let _ = timeout(delay, client.reconnect.notified()).await;
    }
}

/// Returns the path of the requests, with its query.
fn path(options: &WatchOptions) -> String {
    let mut url = reqwest::Url::parse("http://localhost").expect("a URL");
    url.set_path(&match &options.key {
        Some(key) => options.bucket.key_path(key),
        None => options.bucket.listing_path(),
    });
    {
        let mut query = url.query_pairs_mut();
        if options.key.is_none() {
            query.append_pair("prefix", &options.prefix);
        }
        for (name, is_set) in [
            ("initial", options.is_initial),
            ("values", options.has_values),
        ] {
            if is_set {
                query.append_pair(name, "true");
            }
        }
        if let Some((since, _)) = &options.since {
            query.append_pair("since", since);
        }
    }
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

/// Counts a request that led to no stream; `None` if the client gives up.
fn fail_request(client: &SharedClient, error: OpenError) -> Option<()> {
    let mut state = client.state();
    match error {
        OpenError::Refused(response)
            if !client.options.retried_statuses.contains(&response.status) =>
        {
            state.refusal = Some(*response);
            None
        }
        OpenError::WrongHead(problem) => {
            state.failure = Some(problem);
            None
        }
        OpenError::Refused(_) | OpenError::NoResponse(_) => {
            state.counts.failed_requests += 1;
            Some(())
        }
    }
}

/// Feeds the model with a stream until it ends; `None` if the client gives up.
async fn follow(
    client: &SharedClient,
    stream: &mut EventStream,
    address: SocketAddr,
) -> Option<()> {
    {
        let mut state = client.state();
        state.counts.streams += 1;
        let has_position = !state.last_event_id.is_empty() || client.options.since.is_some();
        state.model.connect(has_position);
    }
    loop {
        let step = tokio::select! {
            step = stream.next() => step,
            () = client.reconnect.notified() => return Some(()),
        };
        match step {
            StreamStep::Item(item) => take_item(client, stream, item, address).await?,
            StreamStep::End => {
                client.state().counts.ends += 1;
                return Some(());
            }
            StreamStep::Broken(_) => {
                client.state().counts.breaks += 1;
                return Some(());
            }
        }
    }
}

async fn take_item(
    client: &SharedClient,
    stream: &EventStream,
    item: SseItem,
    address: SocketAddr,
) -> Option<()> {
    let is_event = matches!(item, SseItem::Event(_));
    if let SseItem::Event(event) = item
        && apply(client, &event)? == ModelStep::List
    {
        list(client, address).await?;
    }
    if let Some(id) = stream.last_event_id() {
        let mut state = client.state();
        if id.is_empty() && !state.last_event_id.is_empty() {
            let problem = "a blank line before the first id removes the client's position";
            state.failure = Some(problem.to_owned());
            return None;
        }
        id.clone_into(&mut state.last_event_id);
    }
    if is_event && !client.options.read_pause.is_zero() {
        tokio::time::sleep(client.options.read_pause).await;
    }
    Some(())
}

/// Applies an event; `None` if no server may send it.
fn apply(client: &SharedClient, event: &ServerSentEvent) -> Option<ModelStep> {
    let mut state = client.state();
    let counts = &mut state.counts;
    match event.name.as_str() {
        "put" => counts.puts += 1,
        "delete" => counts.deletes += 1,
        "expire" => counts.expiries += 1,
        "ready" => counts.readies += 1,
        "reset" => counts.resets += 1,
        // The model refuses it.
        _ => {}
    }
    match state.model.apply(event) {
        Ok(step) => Some(step),
        Err(problem) => {
            state.failure = Some(problem);
            None
        }
    }
}

/// Lists the bucket, again and again until that succeeds; `None` if it never will.
async fn list(client: &SharedClient, address: SocketAddr) -> Option<()> {
    let api = ApiClient::new(address);
    loop {
        match list_bucket(&api, &client.options).await {
            Ok(listed) => {
                let mut state = client.state();
                state.counts.lists += 1;
                state.model.load(listed);
                return Some(());
            }
            Err(Some(response)) if matches!(response.status, 401 | 403 | 404) => {
                client.state().refusal = Some(*response);
                return None;
            }
            Err(_) => tokio::time::sleep(LIST_RETRY).await,
        }
    }
}
