//! A client that streams a bucket out of a node and into it.

use crate::servers::OwnedBucket;
use crate::streamed::StreamedResponse;
use anyhow::{Context as _, Result, ensure};
use http_body_util::Empty;
use hyper::body::{Body, Bytes, Frame};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes of a body that are read from the file, and sent, at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of a response of which the last line is kept.
const TAIL_BYTES: usize = 256 * 1024;

/// An export that arrived as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exported {
    /// Number of keys.
    pub keys: u64,
    /// Bytes of the keys' lines.
    pub bytes: u64,
}

/// Last line of an export.
#[derive(Debug, Deserialize)]
struct ExportEnd {
    end: bool,
    keys: u64,
    bytes: u64,
}

/// Last line of the answer to an import.
#[derive(Debug, Deserialize)]
struct ImportEnd {
    end: bool,
    imported: u64,
    failed: u64,
}

/// Exports a bucket to `sink`; fails unless the numbers in its last line are right.
pub(crate) async fn export(
    addr: SocketAddr,
    bucket: &OwnedBucket,
    sink: &mut impl Write,
) -> Result<Exported> {
    let request = http::Request::get(format!("/buckets/{}/export", bucket.id))
        .header("api-key", &bucket.account)
        .body(Empty::<Bytes>::new())
        .context("build request")?;
    let mut response = StreamedResponse::open(addr, request).await?;
    let mut tail = Tail::default();
    while let Some(chunk) = response.next_chunk().await? {
        sink.write_all(&chunk).context("write export")?;
        tail.push(&chunk);
    }
    let status = response.status;
    let last = tail.last_line();
    ensure!(status.is_success(), "export: status {status}: {last}");
    let end: ExportEnd = serde_json::from_str(&last)
        .with_context(|| format!("the export broke off: its last line is {last}"))?;
    // The end line isn't counted in itself.
    let end_bytes = last.len() as u64 + 1;
    let lines = tail.lines.saturating_sub(1);
    let bytes = tail.bytes.saturating_sub(end_bytes);
    ensure!(
        end.end && (end.keys, end.bytes) == (lines, bytes),
        "an export of {lines} lines, {bytes} bytes ends with {last}"
    );
    Ok(Exported { keys: lines, bytes })
}

/// Imports the first bytes of a file into a bucket, and returns the number of keys; fails unless
/// all were imported.
pub(crate) async fn import(
    addr: SocketAddr,
    bucket: &OwnedBucket,
    lines: (&Path, Exported),
) -> Result<u64> {
    let (path, exported) = lines;
    let file = File::open(path).context("open exported lines")?;
    let request = http::Request::post(format!("/buckets/{}/import", bucket.id))
        .header("api-key", &bucket.account)
        .header("content-type", "application/x-ndjson")
        .body(FileBody(file.take(exported.bytes)))
        .context("build request")?;
    let mut response = StreamedResponse::open(addr, request).await?;
    let mut tail = Tail::default();
    while let Some(chunk) = response.next_chunk().await? {
        tail.push(&chunk);
    }
    let status = response.status;
    let last = tail.last_line();
    ensure!(status.is_success(), "import: status {status}: {last}");
    let end: ImportEnd = serde_json::from_str(&last)
        .with_context(|| format!("the import broke off: its last line is {last}"))?;
    ensure!(
        end.end && end.failed == 0 && end.imported == exported.keys,
        "an import of {} keys ends with {last}",
        exported.keys
    );
    Ok(end.imported)
}

/// Part of a file as a body of unknown length. Reads block the thread: what was just written is in
/// the kernel's cache, and nothing else runs on this thread.
struct FileBody(io::Take<File>);

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut chunk = vec![0; CHUNK_BYTES];
        Poll::Ready(match self.0.read(&mut chunk) {
            Ok(0) => None,
            Ok(length) => {
                chunk.truncate(length);
                Some(Ok(Frame::data(chunk.into())))
            }
            Err(error) => Some(Err(error)),
        })
    }
}

/// Numbers of lines and bytes of a stream, and its end.
#[derive(Debug, Default)]
struct Tail {
    lines: u64,
    bytes: u64,
    end: Vec<u8>,
}

impl Tail {
    fn push(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.end.extend_from_slice(chunk);
        if self.end.len() > 2 * TAIL_BYTES {
            self.end.drain(..self.end.len() - TAIL_BYTES);
        }
    }

    /// Returns the last line, without its end; all of the tail if it is no line that ended.
    fn last_line(&self) -> String {
        let line = self.end.strip_suffix(b"\n").unwrap_or(&self.end);
        let start = line.iter().rposition(|byte| *byte == b'\n');
        let line = &line[start.map_or(0, |newline| newline + 1)..];
        String::from_utf8_lossy(line).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(text: &str, chunk_bytes: usize) -> Tail {
        let mut tail = Tail::default();
        text.as_bytes()
            .chunks(chunk_bytes)
            .for_each(|chunk| tail.push(chunk));
        tail
    }

    #[test]
    fn lines_and_bytes_are_counted_and_the_last_line_is_kept() {
        let text = "{\"a\":1}\n{\"b\":2}\n{\"end\":true}\n";
        for chunk_bytes in [1, 5, 100] {
            let tail = tail_of(text, chunk_bytes);
            assert_eq!((tail.lines, tail.bytes), (3, text.len() as u64));
            assert_eq!(tail.last_line(), "{\"end\":true}");
        }
        assert_eq!(tail_of("only", 3).last_line(), "only");
        assert_eq!(Tail::default().last_line(), "");
    }

    #[test]
    fn a_tail_of_a_long_stream_is_bounded() {
        let tail = tail_of(&"0123456789\n".repeat(200_000), 10_000);
        assert_eq!((tail.lines, tail.bytes), (200_000, 2_200_000));
        assert!(tail.end.len() <= 2 * TAIL_BYTES);
        assert_eq!(tail.last_line(), "0123456789");
    }
}
