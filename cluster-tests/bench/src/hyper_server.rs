//! Baseline of HTTP: hyper alone, with the response bytes and headers of a real node.
//!
//! HTTP/1.1 on a multi-threaded tokio runtime with its default workers. The responses are read from
//! a file, into which [`crate::all`] writes those that it got from a node.

use anyhow::{Context, Result};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpStream};

/// Responses to paths that begin with `prefix`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Beginning of the path, up to the key.
    pub prefix: String,
    /// Headers of a GET, without those that hyper adds.
    pub get_headers: Vec<(String, String)>,
    /// Body of a GET.
    pub get_body: Vec<u8>,
    /// Headers of a PUT, whose body is empty.
    pub put_headers: Vec<(String, String)>,
}

/// Options of `hyper-server`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// JSON file with the responses.
    #[arg(long)]
    pub answers: PathBuf,
    /// File to write the listening address to.
    #[arg(long)]
    pub address_file: PathBuf,
}

/// Serves until the process is killed or its standard input is closed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let responses: Vec<CannedResponse> = read_samples(&args.answers)?
        .into_iter()
        .map(CannedResponse::try_from)
        .collect::<Result<_>>()?;
    let responses: &'static [CannedResponse] = Vec::leak(responses);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // The parent holds the other end of standard input: this process exits with it.
    runtime.block_on(async {
        tokio::select! {
            served = serve(responses, &args.address_file) => served,
            _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())) => {
                std::process::exit(0)
            }
        }
    })
}

fn read_samples(path: &Path) -> Result<Vec<Sample>> {
    let json = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&json).with_context(|| format!("parse {}", path.display()))
}

async fn serve(responses: &'static [CannedResponse], address_file: &Path) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?.to_string();
    std::fs::write(address_file, address).context("write address file")?;
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        tokio::spawn(serve_connection(stream, responses));
    }
}

async fn serve_connection(stream: TcpStream, responses: &'static [CannedResponse]) {
    let service = service_fn(move |request| respond(request, responses));
    // A disconnected client is no error here.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    request: Request<Incoming>,
    responses: &'static [CannedResponse],
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path();
    let Some(canned) = responses
        .iter()
        .find(|response| path.starts_with(&response.prefix))
    else {
        let mut missing = Response::default();
        *missing.status_mut() = http::StatusCode::NOT_FOUND;
        return Ok(missing);
    };
    let (headers, body) = if request.method() == Method::PUT {
        request.into_body().collect().await?;
        (&canned.put_headers, Bytes::new())
    } else {
        (&canned.get_headers, canned.get_body.clone())
    };
    let mut response = Response::new(Full::new(body));
    headers.clone_into(response.headers_mut());
    Ok(response)
}

struct CannedResponse {
    prefix: String,
    get_headers: HeaderMap,
    get_body: Bytes,
    put_headers: HeaderMap,
}

impl TryFrom<Sample> for CannedResponse {
    type Error = anyhow::Error;

    fn try_from(sample: Sample) -> Result<Self> {
        Ok(Self {
            prefix: sample.prefix,
            get_headers: header_map(sample.get_headers)?,
            get_body: Bytes::from_static(Vec::leak(sample.get_body)),
            put_headers: header_map(sample.put_headers)?,
        })
    }
}

/// Leaks the values as static ones: cloning them costs no atomic operation, as with constants in
/// code.
fn header_map(pairs: Vec<(String, String)>) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).context("header name")?;
        let value: &'static str = String::leak(value);
        HeaderValue::from_str(value).context("header value")?;
        map.append(name, HeaderValue::from_static(value));
    }
    Ok(map)
}

/// Returns the headers of a real response, without those that hyper adds by itself.
pub(crate) fn headers_to_copy(headers: &HeaderMap) -> Vec<(String, String)> {
    let added_by_hyper = ["date", "content-length", "connection", "transfer-encoding"];
    headers
        .iter()
        .filter(|(name, _)| !added_by_hyper.contains(&name.as_str()))
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}
