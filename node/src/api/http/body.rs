//! Body of a response: empty or one chunk, without a box on the hot path.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Body of a response.
#[derive(Debug)]
pub enum Body {
    /// No body, or it has been sent.
    Empty,
    /// One chunk.
    Full(Bytes),
    /// A body from the axum router.
    Axum(axum::body::Body),
}

impl Body {
    /// Creates a body of one chunk.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(bytes)
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Axum(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Axum(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Axum(body) => body.size_hint(),
        }
    }
}

impl From<Body> for axum::body::Body {
    fn from(body: Body) -> Self {
        match body {
            Body::Empty => Self::empty(),
            Body::Full(bytes) => Self::from(bytes),
            Body::Axum(body) => body,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn one_chunk_is_one_frame_of_known_size() {
        let mut body = Body::full("value");
        assert_eq!(body.size_hint().exact(), Some(5));
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "value");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn empty_bodies_are_at_their_end() {
        assert!(Body::full("").is_end_stream());
        assert_eq!(Body::Empty.size_hint().exact(), Some(0));
    }
}
