//! HTTP client for S3-compatible stores.
//!
//! Each exchange, its response's body included, is bounded in time and size: all objects of a
//! backup are small enough for the memory. `object_store` repeats exchanges that fail for a
//! transient reason.

use std::error::Error;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpService,
};

use super::format::MAX_FILE_BYTES;

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a request and its whole response.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for which an unused connection is kept: less than servers keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Creates clients for stores.
#[derive(Clone, Copy, Debug)]
pub(super) struct S3Connector {
    /// True for a store that is reached without TLS.
    pub is_plain: bool,
}

impl HttpConnector for S3Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut tcp = TcpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        if self.is_plain {
            return Ok(HttpClient::new(S3Client::Plain(
                client_builder().build(tcp),
            )));
        }
        // The TLS connector decides by the scheme.
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_native_roots();
        let tls = tls.map_err(|error| object_store::Error::Generic {
            store: "S3",
            source: format!("load the system's root certificates: {error}").into(),
        })?;
        let tls = tls.https_only().enable_http1().wrap_connector(tcp);
        Ok(HttpClient::new(S3Client::Tls(client_builder().build(tls))))
    }
}

fn client_builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT);
    builder
}

/// Client of a store.
#[derive(Clone, Debug)]
enum S3Client {
    Plain(Client<TcpConnector, HttpRequestBody>),
    Tls(Client<HttpsConnector<TcpConnector>, HttpRequestBody>),
}

impl S3Client {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = match self {
            Self::Plain(client) => client.request(request),
            Self::Tls(client) => client.request(request),
        };
        let (head, body) = response.await.map_err(request_error)?.into_parts();
        let body = Limited::new(body, MAX_FILE_BYTES).collect().await;
        let body = body.map_err(body_error)?.to_bytes();
        Ok(HttpResponse::from_parts(head, body.into()))
    }
}

#[tonic::async_trait]
impl HttpService for S3Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match tokio::time::timeout(EXCHANGE_TIMEOUT, self.exchange(request)).await {
            Ok(exchanged) => exchanged,
            Err(elapsed) => Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
        }
    }
}

/// Classifies an error, which decides whether the exchange is repeated.
fn request_error(error: ClientError) -> HttpError {
    let kind = if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        kind_of(&error)
    };
    HttpError::new(kind, error)
}

fn kind_of(error: &(dyn Error + 'static)) -> HttpErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_timeout() {
                return HttpErrorKind::Timeout;
            }
            if is_broken_off(error) {
                return HttpErrorKind::Request;
            }
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::TimedOut => HttpErrorKind::Timeout,
                _ => HttpErrorKind::Interrupted,
            };
        }
        cause = error.source();
    }
    HttpErrorKind::Unknown
}

fn is_broken_off(error: &hyper::Error) -> bool {
    error.is_closed()
        || error.is_canceled()
        || error.is_incomplete_message()
        || error.is_body_write_aborted()
}

fn body_error(error: Box<dyn Error + Send + Sync>) -> HttpError {
    let kind = if error.is::<LengthLimitError>() {
        HttpErrorKind::Decode
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new_boxed(kind, error)
}
