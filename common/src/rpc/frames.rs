//! Frames without gRPC around them: each message follows the four bytes of its length, the highest
//! first.
//!
//! Between a router and a node a request is so short that HTTP/2's frames, windows and tasks cost more
//! than what it asks for. Here one task at either end reads and writes the connection itself. There is
//! one stream on it, and TCP controls its flow.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cloudkv_proto::tls::Stream;
use futures_util::StreamExt;
use prost::Message;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::codec::{Decoder, FramedRead};

/// The bytes that say how long a message is.
const LENGTH: usize = 4;
/// What a buffer begins with.
const BUFFER: usize = 16 << 10;
/// A buffer in which there was more than this isn't kept.
const KEPT: usize = 256 << 10;

/// Bytes of a frame, until more are allowed: what a greeting takes at most.
const GREETING: usize = 4 << 10;

/// Splits a connection into its two directions. A longer frame than a greeting is an error, until
/// [`FrameReader::allow`] and [`FrameWriter::allow`] say otherwise.
pub fn split(stream: Stream) -> (FrameReader, FrameWriter) {
    let (read, write) = tokio::io::split(stream);
    let codec = || Codec { limit: GREETING };
    (
        FrameReader(FramedRead::with_capacity(read, codec(), BUFFER)),
        FrameWriter {
            stream: write,
            codec: codec(),
            unsent: BytesMut::with_capacity(BUFFER),
            most: 0,
        },
    )
}

/// The frames that come.
#[derive(Debug)]
pub struct FrameReader(FramedRead<ReadHalf<Stream>, Codec>);

impl FrameReader {
    /// Takes frames of up to so many bytes from now on.
    pub fn allow(&mut self, bytes: usize) {
        self.0.decoder_mut().limit = bytes;
    }

    /// The next frame; `None` at the end. May be dropped before it is there, and asked again.
    pub async fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let Some(frame) = self.0.next().await.transpose()? else {
            return Ok(None);
        };
        if frame.len() > KEPT {
            let rest = self.0.read_buffer_mut();
            *rest = BytesMut::from(&rest[..]);
        }
        M::decode(frame).map(Some).map_err(invalid)
    }
}

/// The frames that go.
#[derive(Debug)]
pub struct FrameWriter {
    stream: WriteHalf<Stream>,
    codec: Codec,
    unsent: BytesMut,
    /// The most bytes that were in it.
    most: usize,
}

impl FrameWriter {
    /// Takes frames of up to so many bytes from now on.
    pub fn allow(&mut self, bytes: usize) {
        self.codec.limit = bytes;
    }

    /// Takes a frame, which [`FrameWriter::flush`] writes.
    pub fn put(&mut self, frame: &impl Message) -> io::Result<()> {
        self.codec.write(frame, &mut self.unsent)?;
        self.most = self.most.max(self.unsent.len());
        Ok(())
    }

    /// Writes all frames that were taken. May be dropped before it is done, and asked again.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            if self.stream.write_buf(&mut self.unsent).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        if self.most > KEPT {
            (self.unsent, self.most) = (BytesMut::with_capacity(BUFFER), 0);
        }
        self.stream.flush().await
    }

    /// Writes a frame.
    pub async fn send(&mut self, frame: &impl Message) -> io::Result<()> {
        self.put(frame)?;
        self.flush().await
    }

    /// Writes what was taken, and ends this direction.
    pub async fn end(mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }
}

#[derive(Clone, Copy, Debug)]
struct Codec {
    limit: usize,
}

impl Codec {
    fn write(self, frame: &impl Message, buffer: &mut BytesMut) -> io::Result<()> {
        let length = frame.encoded_len();
        let prefix = u32::try_from(length).ok().filter(|_| length <= self.limit);
        let prefix = prefix.ok_or_else(|| self.too_long(length))?;
        buffer.reserve(LENGTH + length);
        buffer.put_u32(prefix);
        frame.encode(buffer).map_err(io::Error::other)
    }

    fn too_long(self, length: usize) -> io::Error {
        let limit = self.limit;
        invalid(format!(
            "a frame of {length} bytes, where {limit} are allowed"
        ))
    }
}

impl Decoder for Codec {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let Some(prefix) = buffer.first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > self.limit {
            return Err(self.too_long(length));
        }
        if buffer.len() < LENGTH + length {
            // Whoever claims a length has to send the bytes before it gets room for more.
            let missing = LENGTH + length - buffer.len();
            buffer.reserve(missing.min(buffer.len().max(BUFFER)));
            return Ok(None);
        }
        buffer.advance(LENGTH);
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
        /// However the bytes come in, the frames are those that were written.
        #[test]
        fn frames_come_as_they_went(texts in prop::collection::vec(".{0,40}", 0..6), cut in 1_usize..50) {
            let mut codec = Codec { limit: 1000 };
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
        let mut codec = Codec { limit: 10 };
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
    fn a_length_that_is_only_claimed_takes_no_memory() {
        let mut codec = Codec { limit: 32 << 20 };
        let mut buffer = BytesMut::from(&(32_u32 << 20).to_be_bytes()[..]);
        assert_eq!(codec.decode(&mut buffer).unwrap(), None);
        assert!(buffer.capacity() <= 2 * BUFFER, "{}", buffer.capacity());
    }
}
