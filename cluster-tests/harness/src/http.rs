//! A well-behaved HTTP client of CloudKV, for all that such a client can send.
//!
//! It checks that each response has the headers that all responses must have.

use std::future::IntoFuture;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use reqwest::multipart::Form;
use reqwest::{Body, Client, RequestBuilder};
use serde::Serialize;

use super::response::HttpResponse;

/// Longer than any response may take, and than a node may be starting.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two attempts while a node is starting.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A bucket, as the response to its creation described it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Bucket ID.
    pub id: String,
    /// API key of its account.
    pub account: String,
    /// Access mode.
    pub mode: String,
    /// Plan.
    pub plan: String,
}

impl Bucket {
    /// Reads the response to `POST /buckets`.
    #[track_caller]
    pub fn from_response(response: &HttpResponse) -> Self {
        response.assert_status(201);
        let body = response.json();
        let field = |name: &str| match body[name].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("no {name}: {response:?}"),
        };
        Self {
            id: field("bucket_id"),
            account: field("account_id"),
            mode: field("mode"),
            plan: field("plan"),
        }
    }

    /// Returns the path of one of its keys. `name` goes into the path as it is.
    pub fn key_path(&self, name: &str) -> String {
        format!("/kv/{}/{name}", self.id)
    }

    /// Returns the path of its listing.
    pub fn listing_path(&self) -> String {
        format!("/kv/{}", self.id)
    }

    /// Returns the path of the bucket itself.
    pub fn path(&self) -> String {
        format!("/buckets/{}", self.id)
    }
}

/// An HTTP client of one address.
#[derive(Clone, Debug)]
pub struct ApiClient {
    client: Client,
    address: SocketAddr,
}

impl ApiClient {
    /// Creates a client that speaks HTTP/1.1.
    pub fn new(address: SocketAddr) -> Self {
        let client = Client::builder()
            .no_proxy()
            .timeout(RESPONSE_TIMEOUT)
            .http1_only()
            .build();
        Self {
            client: client.expect("make a client"),
            address,
        }
    }

    /// Creates a client that speaks HTTP/1.1 from an address of this machine: each of 127.0.0.0/8
    /// counts as another client. Each request has a connection of its own.
    pub fn from_address(local: Ipv4Addr, address: SocketAddr) -> Self {
        let client = Client::builder()
            .no_proxy()
            .timeout(RESPONSE_TIMEOUT)
            .http1_only()
            .pool_max_idle_per_host(0)
            .local_address(IpAddr::V4(local))
            .build();
        Self {
            client: client.expect("make a client"),
            address,
        }
    }

    /// Creates a client that speaks HTTP/2 from the first byte (prior knowledge).
    pub fn http2(address: SocketAddr) -> Self {
        let client = Client::builder()
            .no_proxy()
            .timeout(RESPONSE_TIMEOUT)
            .http2_prior_knowledge()
            .build();
        Self {
            client: client.expect("make a client"),
            address,
        }
    }

    /// Returns the address that it calls.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a request. `path` is normalised as browsers do; use [`super::RawRequest`] for other
    /// paths.
    pub fn request(&self, method: Method, path: &str) -> ApiRequest {
        let url = format!("http://{}{path}", self.address);
        ApiRequest {
            request: self.client.request(method, url),
            is_checked: true,
        }
    }

    /// Begins a GET request.
    pub fn get(&self, path: &str) -> ApiRequest {
        self.request(Method::GET, path)
    }

    /// Begins a HEAD request.
    pub fn head(&self, path: &str) -> ApiRequest {
        self.request(Method::HEAD, path)
    }

    /// Begins a PUT request.
    pub fn put(&self, path: &str, value: impl Into<Body>) -> ApiRequest {
        self.request(Method::PUT, path).body(value)
    }

    /// Begins a POST request.
    pub fn post(&self, path: &str) -> ApiRequest {
        self.request(Method::POST, path)
    }

    /// Begins a PATCH request.
    pub fn patch(&self, path: &str) -> ApiRequest {
        self.request(Method::PATCH, path)
    }

    /// Begins a DELETE request.
    pub fn delete(&self, path: &str) -> ApiRequest {
        self.request(Method::DELETE, path)
    }

    /// Creates a public bucket of a new account.
    pub async fn create_bucket(&self) -> Bucket {
        self.create_bucket_with(&[]).await
    }

    /// Creates a bucket of a new account.
    pub async fn create_bucket_with(&self, parameters: &[(&str, &str)]) -> Bucket {
        Bucket::from_response(&self.post("/buckets").query(parameters).await)
    }

    /// Creates a bucket of the account with this key.
    pub async fn create_bucket_for(&self, account: &str, parameters: &[(&str, &str)]) -> Bucket {
        Bucket::from_response(
            &self
                .post("/buckets")
                .api_key(account)
                .query(parameters)
                .await,
        )
    }

    /// Writes a value to so many keys, whose names are `prefix` and a number.
    pub async fn put_numbered(&self, bucket: &Bucket, prefix: &str, count: u64, value: &str) {
        for number in 0..count {
            let path = bucket.key_path(&format!("{prefix}{number}"));
            self.put(&path, value.to_owned()).await.assert_status(200);
        }
    }

    /// Returns the names on the first page of a bucket's listing.
    pub async fn list(&self, bucket: &Bucket) -> Vec<String> {
        self.get(&bucket.listing_path()).await.lines()
    }

    /// Returns a key's entry in the JSON list of its bucket's keys.
    pub async fn listed_key(&self, bucket: &Bucket, name: &str) -> serde_json::Value {
        let list = self.get(&bucket.listing_path()).query(&[("prefix", name)]);
        let list = list.header("accept", "application/json").await;
        let keys = list.assert_status(200).json();
        let mut keys = keys["keys"].as_array().into_iter().flatten();
        let listed = keys.find(|key| key["name"] == name).cloned();
        listed.unwrap_or_else(|| panic!("{name} is listed: {list:?}"))
    }

    /// Returns a bucket's entry of `GET /buckets`.
    pub async fn bucket_summary(&self, bucket: &Bucket) -> serde_json::Value {
        let summary = self.try_bucket_summary(bucket).await;
        summary.expect("the node answers the request")
    }

    /// Like [`ApiClient::bucket_summary`], but `None` if the node answers 503.
    pub async fn try_bucket_summary(&self, bucket: &Bucket) -> Option<serde_json::Value> {
        let response = self.get("/buckets").api_key(&bucket.account).await;
        if response.status == 503 {
            return None;
        }
        response.assert_status(200);
        let mut listed = response.json()["buckets"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        listed.retain(|summary| summary["id"] == bucket.id.as_str());
        assert_eq!(listed.len(), 1, "the bucket is listed once: {response:?}");
        Some(listed.remove(0))
    }
}

/// A request under construction; awaiting it sends it.
#[must_use = "a call is sent when it is awaited"]
#[derive(Debug)]
pub struct ApiRequest {
    request: RequestBuilder,
    is_checked: bool,
}

impl ApiRequest {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Adds the API key of an account.
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

    /// Skips the check for the headers that all responses of the public port must have, and doesn't
    /// wait for a node that is starting.
    pub fn unchecked(mut self) -> Self {
        self.is_checked = false;
        self
    }

    /// Sends the request where no response may come, as from a node that is being stopped. To a
    /// node that is starting it is sent again, as by a client that follows `Retry-After`.
    ///
    /// # Errors
    /// Returns an error if no complete response arrives.
    pub async fn try_send(mut self) -> reqwest::Result<HttpResponse> {
        let started = Instant::now();
        loop {
            // A body that is streamed can be sent once only.
            let again = self.request.try_clone().filter(|_| self.is_checked);
            let response = self.send_once().await?;
            match again {
                Some(request)
                    if response.is_of_starting_node() && started.elapsed() < RESPONSE_TIMEOUT =>
                {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    self = Self {
                        request,
                        is_checked: true,
                    };
                }
                _ => return Ok(response),
            }
        }
    }

    async fn send_once(self) -> reqwest::Result<HttpResponse> {
        let started = Instant::now();
        let response = self.request.send().await?;
        let (status, version) = (response.status().as_u16(), response.version());
        let headers = response.headers().clone();
        let body: Bytes = response.bytes().await?;
        let http_response = HttpResponse {
            status,
            version,
            headers,
            body,
            elapsed: started.elapsed(),
        };
        if self.is_checked {
            assert_common_headers(&http_response);
        }
        Ok(http_response)
    }
}

impl IntoFuture for ApiRequest {
    type Output = HttpResponse;
    type IntoFuture = Pin<Box<dyn Future<Output = HttpResponse> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let request = format!("{:?}", self.request);
            match self.try_send().await {
                Ok(response) => response,
                Err(error) => panic!("no response to {request}: {error:?}"),
            }
        })
    }
}

/// Asserts the headers that all responses of the public port must have.
fn assert_common_headers(response: &HttpResponse) {
    for name in ["x-request-id", "x-cloudkv-region"] {
        assert!(
            !response.header(name).is_empty(),
            "every response has {name}: {response:?}"
        );
    }
}
