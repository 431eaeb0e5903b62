//! `GET /buckets/{bucket}/export`: all keys of a bucket, one a line, and a last line that tells
//! whether any is missing.
//!
//! The body is made as the client reads it: a part of the export is read when the lines of the one
//! before it are sent. So an export holds one part in memory, however large the bucket is.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{empty, unfold};
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method};

use crate::api::buckets::export_line::{write_end, write_error, write_key};
use crate::api::buckets::extract::OwnedBucket;
use crate::api::buckets::state::BucketsState;
use crate::api::errors::ApiError;
use crate::api::http::headers::NDJSON;
use crate::api::http::query::Query;
use crate::api::keys::MAX_LIST_PARAMETER_BYTES;
use crate::api::metrics::ApiMetrics;
use crate::service::{Export, ExportItem, KeyError, StoredValue};

/// Parameters of an export.
pub(crate) const EXPORT_PARAMETERS: [&str; 1] = ["prefix"];
/// Size from which on written lines are sent, and maximum size of a frame, in bytes.
const FRAME_BYTES: usize = 64 << 10;

/// Handles `GET /buckets/{bucket}/export`. A HEAD reads nothing.
pub(crate) async fn export(
    State(state): State<BucketsState>,
    OwnedBucket(bucket): OwnedBucket,
    method: Method,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::new(query.as_deref());
    query.refuse_unknown(&EXPORT_PARAMETERS)?;
    let [prefix] = EXPORT_PARAMETERS;
    let prefix = query.get_text(prefix, MAX_LIST_PARAMETER_BYTES)?;
    let prefix = Bytes::from(prefix.unwrap_or_default().into_owned());
    let body = if method == Method::HEAD {
        // Of unknown length, as that of a GET is.
        Body::from_stream(empty::<Result<Bytes, Infallible>>())
    } else {
        let permit = state.export_permits.try_acquire(bucket.owner);
        let permit = permit.ok_or_else(ApiError::too_many_exports)?;
        let mut export = state.service.exports.start(bucket, prefix)?;
        // What fails before the first byte has a status of its own.
        let first = export.next().await?;
        let lines = ExportLines::new(export, first, state.metrics);
        Body::from_stream(into_frames(lines, permit))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, NDJSON);
    // Without the bucket's ID, which is a credential.
    let file = HeaderValue::from_static("attachment; filename=\"export.ndjson\"");
    headers.insert(CONTENT_DISPOSITION, file);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Returns the frames of an export's body. The permit is held until it has ended, or is dropped.
fn into_frames<S: ExportSource>(
    lines: ExportLines<S>,
    permit: impl Send + 'static,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    unfold((lines, permit), |(mut lines, permit)| async move {
        let frame = lines.next_frame().await?;
        Some((Ok(frame), (lines, permit)))
    })
}

/// Parts of an export.
trait ExportSource: Send {
    /// Returns the next part.
    fn next(&mut self) -> impl Future<Output = Result<ExportItem, KeyError>> + Send;
}

impl ExportSource for Export {
    async fn next(&mut self) -> Result<ExportItem, KeyError> {
        Export::next(self).await
    }
}

/// Lines of an export.
struct ExportLines<S> {
    source: S,
    metrics: Arc<ApiMetrics>,
    /// Keys that were read, and are not written yet.
    records: VecDeque<(Bytes, StoredValue)>,
    /// Bytes that were written, and are not sent yet.
    unsent: Bytes,
    /// Part that was read first, before the answer began.
    first: Option<ExportItem>,
    is_ended: bool,
    keys: u64,
    bytes: u64,
}

impl<S: ExportSource> ExportLines<S> {
    fn new(source: S, first: ExportItem, metrics: Arc<ApiMetrics>) -> Self {
        Self {
            source,
            metrics,
            records: VecDeque::new(),
            unsent: Bytes::new(),
            first: Some(first),
            is_ended: false,
            keys: 0,
            bytes: 0,
        }
    }

    /// Returns the next frame; `None` after the last line.
    async fn next_frame(&mut self) -> Option<Bytes> {
        while self.unsent.is_empty() && !self.is_ended {
            let written = if self.records.is_empty() {
                self.read().await
            } else {
                self.write_keys()
            };
            if let Err(error) = written {
                self.is_ended = true;
                let mut out = Vec::new();
                // If not even the error can be written, there is no last line, which says enough.
                if write_error(&mut out, error).is_ok() {
                    self.unsent = Bytes::from(out);
                }
            }
        }
        let frame = self.unsent.split_to(self.unsent.len().min(FRAME_BYTES));
        (!frame.is_empty()).then_some(frame)
    }

    /// Reads the next part, and writes the last line if it is the end.
    async fn read(&mut self) -> Result<(), ApiError> {
        let item = match self.first.take() {
            Some(first) => first,
            None => self.source.next().await?,
        };
        match item {
            ExportItem::Records(records) => self.records = records.into(),
            ExportItem::End { since } => {
                let mut out = Vec::new();
                let since = since.map(|since| since.to_string());
                write_end(&mut out, (self.keys, self.bytes), since)?;
                self.unsent = Bytes::from(out);
                self.is_ended = true;
            }
        }
        Ok(())
    }

    /// Writes the lines of some keys.
    fn write_keys(&mut self) -> Result<(), ApiError> {
        let (mut out, mut keys) = (Vec::with_capacity(FRAME_BYTES), 0);
        while out.len() < FRAME_BYTES
            && let Some((key, stored)) = self.records.pop_front()
        {
            write_key(&mut out, &key, &stored)?;
            keys += 1;
        }
        self.keys += keys;
        self.bytes += out.len() as u64;
        self.metrics.count_exported_keys(keys);
        self.unsent = Bytes::from(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::service::{Unavailable, Version};

    /// A source of these parts.
    struct TestSource(VecDeque<Result<ExportItem, KeyError>>);

    impl ExportSource for TestSource {
        async fn next(&mut self) -> Result<ExportItem, KeyError> {
            self.0.pop_front().unwrap()
        }
    }

    fn record(key: &str, value: Vec<u8>) -> (Bytes, StoredValue) {
        let stored = StoredValue {
            value: Bytes::from(value),
            content_type: Bytes::new(),
            version: Version::default(),
            expires_at: None,
            metadata: Bytes::new(),
        };
        (Bytes::from(key.to_owned()), stored)
    }

    fn records(keys: &[&str]) -> ExportItem {
        let records = keys.iter().map(|key| record(key, b"v".to_vec()));
        ExportItem::Records(records.collect())
    }

    /// Exports parts, and returns the frames of the body.
    async fn frames(parts: Vec<Result<ExportItem, KeyError>>) -> Vec<Bytes> {
        let mut source = TestSource(parts.into());
        let first = source.next().await.unwrap();
        let metrics = Arc::<ApiMetrics>::default();
        let lines = ExportLines::new(source, first, metrics.clone());
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.clone().try_acquire_owned().unwrap();
        let mut body = Body::from_stream(into_frames(lines, permit));
        assert_eq!(permits.available_permits(), 0);
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(permits.available_permits(), 1, "another export may begin");
        let text = frames.concat();
        let keys = text.windows(6).filter(|it| **it == *b"\"key\":").count();
        assert_eq!(metrics.exported_keys(), keys as u64);
        frames
    }

    fn lines(frames: &[Bytes]) -> Vec<Value> {
        let text = String::from_utf8(frames.concat()).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn all_keys_come_before_the_last_line() {
        let end = ExportItem::End { since: None };
        let parts = vec![Ok(records(&["a", "b"])), Ok(records(&["c"])), Ok(end)];
        let frames = frames(parts).await;
        let lines = lines(&frames);
        let keys: Vec<&Value> = lines[..3].iter().map(|line| &line["key"]).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        let last = frames.last().unwrap().len();
        let expected = json!({"end": true, "keys": 3, "bytes": bytes - last});
        assert_eq!(lines[3..], [expected]);
    }

    #[tokio::test]
    async fn an_empty_bucket_has_a_last_line() {
        let frames = frames(vec![Ok(ExportItem::End { since: None })]).await;
        assert_eq!(
            lines(&frames),
            [json!({"end": true, "keys": 0, "bytes": 0})]
        );
    }

    #[tokio::test]
    async fn an_export_that_breaks_off_has_an_error_and_no_end() {
        let lost = Unavailable::NoLeader {
            group: "shard 1".to_owned(),
        };
        let frames = frames(vec![Ok(records(&["a"])), Err(lost.into())]).await;
        let lines = lines(&frames);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["error"], "unavailable");
        assert!(lines[1].get("end").is_none());
    }

    #[tokio::test]
    async fn frames_are_bounded() {
        let small = (0..4000).map(|number| record(&number.to_string(), vec![b'v'; 20]));
        let large = record("large", vec![b'v'; 3 * FRAME_BYTES]);
        let parts = vec![
            Ok(ExportItem::Records(small.collect())),
            Ok(ExportItem::Records(vec![large])),
            Ok(ExportItem::End { since: None }),
        ];
        let frames = frames(parts).await;
        assert!(frames.iter().all(|frame| frame.len() <= FRAME_BYTES));
        let lines = lines(&frames);
        assert_eq!(lines.len(), 4002);
        let value = lines[4000]["value"].as_str().unwrap();
        assert_eq!(value.len(), 3 * FRAME_BYTES);
        assert_eq!(lines[4001]["keys"], 4001);
    }
}
