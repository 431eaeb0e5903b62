//! Length-prefixed frames without gRPC: each message follows its length in four bytes, big-endian.
//!
//! Between a router and a node a request is so short that HTTP/2's frames, windows and tasks cost
//! more than the request itself. Here one task at either end reads and writes the connection
//! itself. There is one stream on it, and TCP controls its flow.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use prost::Message;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::codec::{Decoder, FramedRead};

use super::tls::PeerStream;

/// Size of the length before each message.
const LENGTH_PREFIX_BYTES: usize = 4;
/// Initial capacity of a buffer.
const BUFFER_BYTES: usize = 16 << 10;
/// Maximum bytes that a buffer may have held to be kept; a larger one is replaced.
const MAX_KEPT_BUFFER_BYTES: usize = 256 << 10;

/// Maximum bytes of a frame until more are allowed: enough for a greeting.
const MAX_GREETING_BYTES: usize = 4 << 10;

/// Splits a connection into its two directions. A longer frame than a greeting is an error, until
/// [`FrameReader::set_max_frame_bytes`] and [`FrameWriter::set_max_frame_bytes`] allow it.
pub fn split(stream: PeerStream) -> (FrameReader, FrameWriter) {
    let (read, write) = tokio::io::split(stream);
    let codec = || FrameCodec {
        max_frame_bytes: MAX_GREETING_BYTES,
    };
    (
        FrameReader(FramedRead::with_capacity(read, codec(), BUFFER_BYTES)),
        FrameWriter {
            stream: write,
            codec: codec(),
            unsent: BytesMut::with_capacity(BUFFER_BYTES),
            peak_bytes: 0,
        },
    )
}

/// Receiving direction of a connection.
#[derive(Debug)]
pub struct FrameReader(FramedRead<ReadHalf<PeerStream>, FrameCodec>);

impl FrameReader {
    /// Accepts frames of up to so many bytes from now on.
    pub fn set_max_frame_bytes(&mut self, bytes: usize) {
        self.0.decoder_mut().max_frame_bytes = bytes;
    }

    /// Returns the next frame; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// Fails if the connection fails, or a frame is too long or malformed.
    pub async fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let Some(frame) = self.0.next().await.transpose()? else {
            return Ok(None);
        };
        if frame.len() > MAX_KEPT_BUFFER_BYTES {
            let rest = self.0.read_buffer_mut();
            *rest = BytesMut::from(&rest[..]);
        }
        M::decode(frame).map(Some).map_err(invalid)
    }
}

/// Sending direction of a connection.
#[derive(Debug)]
pub struct FrameWriter {
    stream: WriteHalf<PeerStream>,
    codec: FrameCodec,
    unsent: BytesMut,
    /// Largest number of bytes that `unsent` has held.
    peak_bytes: usize,
}

impl FrameWriter {
    /// Accepts frames of up to so many bytes from now on.
    pub fn set_max_frame_bytes(&mut self, bytes: usize) {
        self.codec.max_frame_bytes = bytes;
    }

    /// Buffers a frame, which [`FrameWriter::flush`] writes.
    ///
    /// # Errors
    /// Fails if the frame is too long.
    pub fn put(&mut self, frame: &impl Message) -> io::Result<()> {
        self.codec.write(frame, &mut self.unsent)?;
        self.peak_bytes = self.peak_bytes.max(self.unsent.len());
        Ok(())
    }

    /// Writes all buffered frames. Cancel safe: what wasn't written stays buffered.
    ///
    /// # Errors
    /// Fails if the connection fails.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            if self.stream.write_buf(&mut self.unsent).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        if self.peak_bytes > MAX_KEPT_BUFFER_BYTES {
            (self.unsent, self.peak_bytes) = (BytesMut::with_capacity(BUFFER_BYTES), 0);
        }
        self.stream.flush().await
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// Fails if the frame is too long, or the connection fails.
    pub async fn send(&mut self, frame: &impl Message) -> io::Result<()> {
        self.put(frame)?;
        self.flush().await
    }

    /// Writes all buffered frames, and ends this direction.
    ///
    /// # Errors
    /// Fails if the connection fails.
    pub async fn shutdown(mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }
}

/// Codec of frames of up to so many bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameCodec {
    pub max_frame_bytes: usize,
}

impl FrameCodec {
    /// Appends a frame to a buffer.
    pub(super) fn write(self, frame: &impl Message, buffer: &mut BytesMut) -> io::Result<()> {
        let length = frame.encoded_len();
        let prefix = u32::try_from(length)
            .ok()
            .filter(|_| length <= self.max_frame_bytes);
        let prefix = prefix.ok_or_else(|| self.too_long(length))?;
        buffer.reserve(LENGTH_PREFIX_BYTES + length);
        buffer.put_u32(prefix);
        frame.encode(buffer).map_err(io::Error::other)
    }

    fn too_long(self, length: usize) -> io::Error {
        let limit = self.max_frame_bytes;
        invalid(format!(
            "frame of {length} bytes, at most {limit} are allowed"
        ))
    }
}

impl Decoder for FrameCodec {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let Some(prefix) = buffer.first_chunk::<LENGTH_PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > self.max_frame_bytes {
            return Err(self.too_long(length));
        }
        if buffer.len() < LENGTH_PREFIX_BYTES + length {
            // A claimed length reserves no memory: the buffer grows as the bytes come in.
            let missing = LENGTH_PREFIX_BYTES + length - buffer.len();
            buffer.reserve(missing.min(buffer.len().max(BUFFER_BYTES)));
            return Ok(None);
        }
        buffer.advance(LENGTH_PREFIX_BYTES);
        Ok(Some(buffer.split_to(length).freeze()))
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use cloudkv_proto::v1 as pb;
    use proptest::prelude::*;

    use super::*;

    fn welcome(message: &str) -> pb::UserWelcome {
        pb::UserWelcome {
            code: 7,
            message: message.to_owned(),
            headers: 0,
        }
    }

    proptest! {
        /// The frames don't depend on the pieces in which the bytes come in.
        #[test]
        fn frames_survive_a_round_trip(
            texts in prop::collection::vec(".{0,40}", 0..6),
            cut in 1_usize..50,
        ) {
            let mut codec = FrameCodec { max_frame_bytes: 1000 };
            let mut bytes = BytesMut::new();
            for text in &texts {
                codec.write(&welcome(text), &mut bytes).unwrap();
            }
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                    read.push(pb::UserWelcome::decode(frame).unwrap().message);
                }
            }
            prop_assert_eq!(read, texts);
            prop_assert!(buffer.is_empty());
        }
    }

    #[test]
    fn frames_beyond_the_limit_are_refused_on_both_sides() {
        let mut codec = FrameCodec {
            max_frame_bytes: 10,
        };
        let mut bytes = BytesMut::new();
        let refused = codec
            .write(&welcome("much too long"), &mut bytes)
            .unwrap_err();
        assert!(refused.to_string().contains("10 are allowed"), "{refused}");
        assert!(bytes.is_empty(), "half a frame was left");
        let mut huge = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(codec.decode(&mut huge).is_err());
    }

    #[test]
    fn a_claimed_length_reserves_no_memory() {
        let mut codec = FrameCodec {
            max_frame_bytes: 32 << 20,
        };
        let mut buffer = BytesMut::from(&(32_u32 << 20).to_be_bytes()[..]);
        assert_eq!(codec.decode(&mut buffer).unwrap(), None);
        assert!(
            buffer.capacity() <= 2 * BUFFER_BYTES,
            "{}",
            buffer.capacity()
        );
    }
}
