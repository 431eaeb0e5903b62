//! Sends a request of a collection, byte for byte as Postman would.

use std::net::SocketAddr;

use cloudkv_test_harness::{HttpResponse, RawRequest};

use super::environment::Environment;
use super::model::{FormField, Request, RequestBody};

/// Boundary in Postman's format.
const BOUNDARY: &str = "--------------------------514318624862841937025746";

/// Sends a request after substituting the environment's variables.
///
/// # Panics
/// Panics if its address isn't below `http://<host>:<port>`, or no response arrives.
pub async fn send(request: &Request, environment: &Environment) -> HttpResponse {
    let url = environment.substitute(request.url.raw());
    let (address, target) = split(&url);
    let mut raw = RawRequest::with_request_line(&format!("{} {target} HTTP/1.1", request.method));
    let headers = enabled(&request.headers);
    for field in &headers {
        raw = raw.header(&field.key, &environment.substitute(&field.value));
    }
    raw = raw
        .header("User-Agent", "PostmanRuntime/7.36.0")
        .header("Accept", "*/*")
        .header("Cache-Control", "no-cache")
        .header("Postman-Token", "0b7d7a5e-9a3c-4b32-8b5e-3a6f3c0a7a11")
        .header("Host", &address.to_string())
        .header("Accept-Encoding", "gzip, deflate, br")
        .header("Connection", "keep-alive");
    // A content type that the user set wins over the one of the body's mode.
    let has_content_type = headers
        .iter()
        .any(|field| field.key.eq_ignore_ascii_case("content-type"));
    let (content_type, body) = match &request.body {
        Some(RequestBody::Raw { raw }) => ("text/plain".to_owned(), environment.substitute(raw)),
        Some(RequestBody::Formdata { formdata }) => (
            format!("multipart/form-data; boundary={BOUNDARY}"),
            multipart(formdata, environment),
        ),
        None if request.method == "POST" => return raw.parse_body(b"").send(address).await,
        None => return raw.send(address).await,
    };
    if !has_content_type {
        raw = raw.header("Content-Type", &content_type);
    }
    raw.parse_body(body.as_bytes()).send(address).await
}

fn split(url: &str) -> (SocketAddr, String) {
    let rest = url
        .strip_prefix("http://")
        .unwrap_or_else(|| panic!("invalid address: {url}"));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = host
        .parse()
        .unwrap_or_else(|e| panic!("invalid address: {url}: {e}"));
    (address, format!("/{path}"))
}

fn enabled(fields: &[FormField]) -> Vec<&FormField> {
    fields.iter().filter(|field| !field.disabled).collect()
}

fn multipart(fields: &[FormField], environment: &Environment) -> String {
    let mut body = String::new();
    for field in enabled(fields) {
        let (name, value) = (&field.key, environment.substitute(&field.value));
        body += &format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n");
        body += &format!("\r\n{value}\r\n");
    }
    body + &format!("--{BOUNDARY}--\r\n")
}
