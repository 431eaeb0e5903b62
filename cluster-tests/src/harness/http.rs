//! A well-behaved client of CloudKV, for all that a well-behaved client can send.
//!
//! Every answer that it gets is checked for what every answer must have.

use std::future::IntoFuture;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use reqwest::multipart::Form;
use reqwest::{Body, Client, RequestBuilder};
use serde::Serialize;

use super::answer::Answer;

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A bucket, as the answer to its creation told it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its name.
    pub id: String,
    /// The key of its account.
    pub account: String,
    /// Its access mode.
    pub mode: String,
    /// Its plan.
    pub plan: String,
}

impl Bucket {
    /// Reads the answer to `POST /buckets`.
    #[track_caller]
    pub fn from_answer(answer: &Answer) -> Self {
        answer.status(201);
        let body = answer.json();
        let field = |name: &str| match body[name].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("no {name}: {answer:?}"),
        };
        Self {
            id: field("bucket_id"),
            account: field("account_id"),
            mode: field("mode"),
            plan: field("plan"),
        }
    }

    /// The path of one of its keys. `name` goes into the path as it is.
    pub fn key(&self, name: &str) -> String {
        format!("/kv/{}/{name}", self.id)
    }

    /// The path of its listing.
    pub fn keys(&self) -> String {
        format!("/kv/{}", self.id)
    }

    /// The path of the bucket itself.
    pub fn path(&self) -> String {
        format!("/buckets/{}", self.id)
    }
}

/// A client of one port.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    address: SocketAddr,
}

impl Api {
    /// A client that speaks HTTP/1.1.
    pub fn new(address: SocketAddr) -> Self {
        let client = Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .http1_only()
            .build();
        Self {
            client: client.expect("make a client"),
            address,
        }
    }

    /// A client that speaks HTTP/1.1 from an address of this machine: each of 127.0.0.0/8 is another
    /// client. Each request has a connection of its own.
    pub fn from(from: Ipv4Addr, address: SocketAddr) -> Self {
        let client = Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .http1_only()
            .pool_max_idle_per_host(0)
            .local_address(IpAddr::V4(from))
            .build();
        Self {
            client: client.expect("make a client"),
            address,
        }
    }

    /// A client that speaks HTTP/2 from the first byte.
    pub fn http2(address: SocketAddr) -> Self {
        let client = Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .http2_prior_knowledge()
            .build();
        Self {
            client: client.expect("make a client"),
            address,
        }
    }

    /// The port that it talks to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A request. `path` is normalised as browsers do; odd paths are for [`super::RawRequest`].
    pub fn request(&self, method: Method, path: &str) -> Call {
        let url = format!("http://{}{path}", self.address);
        Call {
            request: self.client.request(method, url),
            checked: true,
        }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Call {
        self.request(Method::GET, path)
    }

    /// HEAD.
    pub fn head(&self, path: &str) -> Call {
        self.request(Method::HEAD, path)
    }

    /// PUT.
    pub fn put(&self, path: &str, value: impl Into<Body>) -> Call {
        self.request(Method::PUT, path).body(value)
    }

    /// POST.
    pub fn post(&self, path: &str) -> Call {
        self.request(Method::POST, path)
    }

    /// PATCH.
    pub fn patch(&self, path: &str) -> Call {
        self.request(Method::PATCH, path)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Call {
        self.request(Method::DELETE, path)
    }

    /// A new public bucket of a new account.
    pub async fn bucket(&self) -> Bucket {
        self.bucket_with(&[]).await
    }

    /// A new bucket of a new account.
    pub async fn bucket_with(&self, parameters: &[(&str, &str)]) -> Bucket {
        Bucket::from_answer(&self.post("/buckets").query(parameters).await)
    }

    /// A new bucket of the account with this key.
    pub async fn bucket_of(&self, account: &str, parameters: &[(&str, &str)]) -> Bucket {
        Bucket::from_answer(
            &self
                .post("/buckets")
                .api_key(account)
                .query(parameters)
                .await,
        )
    }

    /// What `GET /buckets` says of a bucket.
    pub async fn summary(&self, bucket: &Bucket) -> serde_json::Value {
        let summary = self.try_summary(bucket).await;
        summary.expect("the node answers")
    }

    /// [`Api::summary`], unless the node says that it can't tell now.
    pub async fn try_summary(&self, bucket: &Bucket) -> Option<serde_json::Value> {
        let answer = self.get("/buckets").api_key(&bucket.account).await;
        if answer.status == 503 {
            return None;
        }
        answer.status(200);
        let mut listed = answer.json()["buckets"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        listed.retain(|summary| summary["id"] == bucket.id.as_str());
        assert_eq!(listed.len(), 1, "the bucket is listed once: {answer:?}");
        Some(listed.remove(0))
    }
}

/// A request on its way; awaiting it sends it.
#[must_use = "a call is sent when it is awaited"]
#[derive(Debug)]
pub struct Call {
    request: RequestBuilder,
    checked: bool,
}

impl Call {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Adds the key of an account.
    pub fn api_key(self, key: &str) -> Self {
        self.header("api-key", key)
    }

    /// Adds parameters to the query string.
    pub fn query(mut self, parameters: &[(&str, &str)]) -> Self {
        let (client, request) = self.request.build_split();
        let mut request = request.expect("build a request");
        if !parameters.is_empty() {
            request.url_mut().query_pairs_mut().extend_pairs(parameters);
        }
        self.request = RequestBuilder::from_parts(client, request);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// Sets a JSON body and its type.
    pub fn json(mut self, body: &impl Serialize) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// Sets a multipart body and its type.
    pub fn multipart(mut self, fields: &[(&'static str, &'static str)]) -> Self {
        let form = fields
            .iter()
            .fold(Form::new(), |form, (name, value)| form.text(*name, *value));
        self.request = self.request.multipart(form);
        self
    }

    /// Sets an urlencoded body, already encoded, and its type.
    pub fn urlencoded(self, body: &'static str) -> Self {
        self.header("content-type", "application/x-www-form-urlencoded")
            .body(body)
    }

    /// Leaves out the check for what every answer of the public port must have.
    pub fn unchecked(mut self) -> Self {
        self.checked = false;
        self
    }

    /// Sends it where it may not be answered, as to a node that is being stopped.
    ///
    /// # Errors
    /// When no whole answer comes.
    pub async fn try_send(self) -> reqwest::Result<Answer> {
        let started = Instant::now();
        let response = self.request.send().await?;
        let (status, version) = (response.status().as_u16(), response.version());
        let headers = response.headers().clone();
        let body: Bytes = response.bytes().await?;
        let answer = Answer {
            status,
            version,
            headers,
            body,
            took: started.elapsed(),
        };
        if self.checked {
            check_every_answer(&answer);
        }
        Ok(answer)
    }
}

impl IntoFuture for Call {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let what = format!("{:?}", self.request);
            match self.try_send().await {
                Ok(answer) => answer,
                Err(error) => panic!("no answer to {what}: {error:?}"),
            }
        })
    }
}

/// What every answer of the public port must have.
fn check_every_answer(answer: &Answer) {
    for name in ["x-request-id", "x-cloudkv-region"] {
        assert!(
            !answer.header(name).is_empty(),
            "every answer has {name}: {answer:?}"
        );
    }
}
