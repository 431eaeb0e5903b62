//! Renders what a watch tells as blocks of server-sent events. The data of an event is one line of
//! JSON, with the fields that a list has.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use serde::Serialize;

use super::end::StreamEnd;
use crate::api::http::etag;
use crate::api::keys::list::listed_key;
use crate::service::{KeyChange, KeyChangeKind, KeyInfo, PutDetails, WatchEvent, WatchItem};

/// First line of a stream: the time after which the client connects again when it breaks off.
pub(super) const BEGIN: &[u8] = b"retry: 2000\n";

/// Estimated size of an event, in bytes.
const EVENT_BYTES: usize = 256;

/// Data of an event of a key that was deleted, or has expired.
#[derive(Serialize)]
struct RemovedKey<'a> {
    name: Cow<'a, str>,
    /// That of the deletion; of a key that has expired, that of its last write.
    version: String,
}

#[derive(Serialize)]
struct Ready<'a> {
    region: &'a str,
}

#[derive(Serialize)]
struct Reset<'a> {
    reason: &'a str,
}

/// Renders an item, whose events have values if their watcher wants them.
pub(super) fn item(item: &WatchItem, with_values: bool, region: &HeaderValue) -> Bytes {
    match item {
        WatchItem::Events(events) => self::events(events, with_values),
        WatchItem::Initial { keys, token } => {
            let mut blocks = Vec::with_capacity(keys.len() * EVENT_BYTES);
            for key in keys {
                write_put(&mut blocks, token, key, with_values);
            }
            blocks.into()
        }
        WatchItem::Ready { token } => {
            let region = region.to_str().unwrap_or_default();
            block("ready", token, &Ready { region })
        }
        WatchItem::Reset { token } => {
            let reason = "changes may have been missed: list the keys anew";
            block("reset", token, &Reset { reason })
        }
        WatchItem::Position { token } => format!(":\nid: {token}\n\n").into(),
        WatchItem::End(end) => StreamEnd::from(end).lines(),
    }
}

/// Renders events as one chunk.
fn events(events: &[Arc<WatchEvent>], with_values: bool) -> Bytes {
    let rendered = |event: &Arc<WatchEvent>| {
        event.rendered(with_values, |event| {
            let token = &event.token;
            change(&event.change, event.value(), token, with_values)
        })
    };
    if let [event] = events {
        return rendered(event);
    }
    let mut blocks = Vec::with_capacity(events.len() * EVENT_BYTES);
    for event in events {
        blocks.extend_from_slice(&rendered(event));
    }
    blocks.into()
}

fn change(change: &KeyChange, value: Option<&Bytes>, token: &str, with_value: bool) -> Bytes {
    match &change.kind {
        KeyChangeKind::Put(details) => {
            let mut block = Vec::with_capacity(EVENT_BYTES + value.map_or(0, Bytes::len));
            let key = key_info(change, details, value);
            write_put(&mut block, token, &key, with_value);
            block.into()
        }
        KeyChangeKind::Deleted => block("delete", token, &removed(change)),
        KeyChangeKind::Expired => block("expire", token, &removed(change)),
        // It ends the stream, which is told by its end.
        KeyChangeKind::BucketDropped => Bytes::new(),
    }
}

fn key_info(change: &KeyChange, details: &PutDetails, value: Option<&Bytes>) -> KeyInfo {
    KeyInfo {
        key: change.key.clone(),
        size: details.size,
        version: change.version,
        expires_at: details.expires_at,
        content_type: details.content_type.clone(),
        metadata: details.metadata.clone(),
        value: value.cloned(),
    }
}

fn removed(change: &KeyChange) -> RemovedKey<'_> {
    RemovedKey {
        name: String::from_utf8_lossy(&change.key),
        version: etag::text(change.version),
    }
}

fn write_put(blocks: &mut Vec<u8>, token: &str, key: &KeyInfo, with_value: bool) {
    write_block(blocks, "put", token, &listed_key(key, with_value));
}

fn block(name: &str, token: &str, data: &impl Serialize) -> Bytes {
    let mut block = Vec::with_capacity(EVENT_BYTES);
    write_block(&mut block, name, token, data);
    block.into()
}

/// Writes an event. Its data has no line break: JSON has them escaped in texts, and metadata is
/// stored without any outside of texts.
fn write_block(blocks: &mut Vec<u8>, name: &str, token: &str, data: &impl Serialize) {
    let begin = blocks.len();
    for part in ["event: ", name, "\nid: ", token, "\ndata: "] {
        blocks.extend_from_slice(part.as_bytes());
    }
    match serde_json::to_writer(&mut *blocks, data) {
        Ok(()) => blocks.extend_from_slice(b"\n\n"),
        Err(error) => {
            // Writing to memory doesn't fail.
            tracing::error!(%error, "serializing an event failed");
            blocks.truncate(begin);
        }
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
