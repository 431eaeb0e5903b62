//! Fuzz targets of a router's connection: frames and their messages, and encoded headers.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use cloudkv_proto::v1 as pb;
use http::HeaderValue;
use prost::Message;
use tokio_util::codec::Decoder;

use super::frames::FrameCodec;
use super::headers::{TABLE_VERSION, read_headers, write_headers};
use super::stream_kind::check_user_greeting;
use crate::node_id::NodeId;

pub use super::server::fuzzing::router_stream;

/// Maximum size of a frame, as between router and node after the greeting.
const MAX_FRAME_BYTES: usize = 32 << 20;
/// Maximum size of a frame in a comparison with [`MAX_FRAME_BYTES`].
const MAX_SHORT_FRAME_BYTES: usize = 64;
/// Maximum capacity of a buffer for few bytes.
const MAX_BUFFER_BYTES: usize = 256 << 10;
const CLUSTER_ID: &str = "cluster";
const NODE_ID: u64 = 2;

/// Decodes frames from bytes that come in pieces, whose size is that of the first byte.
pub fn router_frames(data: &[u8]) {
    let Some((piece_bytes, bytes)) = data.split_first() else {
        return;
    };
    let at_once = bytes.len().max(1);
    let whole = decode_frames(bytes, MAX_FRAME_BYTES, at_once);
    let pieces = decode_frames(bytes, MAX_FRAME_BYTES, usize::from(*piece_bytes) + 1);
    assert_eq!(pieces, whole, "the pieces change the frames");
    let (frames, _) = whole;
    let (short_frames, _) = decode_frames(bytes, MAX_SHORT_FRAME_BYTES, at_once);
    assert!(
        frames.starts_with(&short_frames),
        "the limit changes frames within it"
    );
    for frame in &frames {
        check_greeting(frame);
        check_message::<pb::UserGreeting>(frame);
        check_message::<pb::UserWelcome>(frame);
        check_message::<pb::CallFrame>(frame);
        check_message::<pb::ReplyFrame>(frame);
    }
}

/// Returns the frames in bytes that come in pieces, and whether a frame was refused.
fn decode_frames(bytes: &[u8], max_frame_bytes: usize, piece_bytes: usize) -> (Vec<Bytes>, bool) {
    let mut codec = FrameCodec { max_frame_bytes };
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece_bytes) {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        // A claimed length reserves no memory.
        let capacity = buffer.capacity();
        assert!(
            capacity <= 4 * bytes.len() + MAX_BUFFER_BYTES,
            "the buffer has a capacity of {capacity} bytes"
        );
    }
    (frames, false)
}

/// Checks that an accepted message survives a round trip in a frame.
fn check_message<M: Message + Default + PartialEq + Debug>(frame: &Bytes) {
    let Ok(message) = M::decode(frame.clone()) else {
        return;
    };
    let mut codec = FrameCodec {
        max_frame_bytes: MAX_FRAME_BYTES,
    };
    let mut buffer = BytesMut::new();
    let written = codec.write(&message, &mut buffer);
    assert!(written.is_ok(), "{written:?}");
    let read = codec.decode(&mut buffer);
    let read = read.ok().flatten().map(M::decode);
    assert_eq!(read, Some(Ok(message)));
    assert!(buffer.is_empty());
}

/// Checks that only routers of the cluster that address the node and know its headers are accepted.
fn check_greeting(frame: &Bytes) {
    let Ok(greeting) = pb::UserGreeting::decode(frame.clone()) else {
        return;
    };
    let accepted = check_user_greeting(&greeting, CLUSTER_ID, NodeId::from(NODE_ID));
    let expected = (CLUSTER_ID, NODE_ID, TABLE_VERSION);
    assert_eq!(
        accepted.is_ok(),
        (&*greeting.cluster_id, greeting.to, greeting.headers) == expected
    );
}

/// Decodes headers; those that are accepted survive a round trip.
pub fn router_headers(data: &[u8]) {
    let Ok(headers) = read_headers(&Bytes::copy_from_slice(data), 0) else {
        return;
    };
    assert!(headers.len() <= data.len() / 2);
    for value in headers.values() {
        assert!(HeaderValue::from_bytes(value.as_bytes()).is_ok());
    }
    let encoded = write_headers(&headers, |_| false);
    // Names and values of the table become indexes.
    assert!(encoded.len() <= data.len(), "the encoding has grown");
    assert_eq!(read_headers(&encoded, 4), Ok(headers));
}
