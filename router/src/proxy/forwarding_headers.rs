//! Hop-by-hop headers, and headers in which proxies forward the client's address.

use std::net::{IpAddr, Ipv4Addr};

use cloudkv_common::server::RequestOrigin;
use cloudkv_common::server::forwarded::{X_FORWARDED_FOR, X_FORWARDED_PROTO};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

static FORWARDED_FOR: HeaderName = HeaderName::from_static(X_FORWARDED_FOR);
static FORWARDED_PROTO: HeaderName = HeaderName::from_static(X_FORWARDED_PROTO);

/// Maximum size of a list of addresses that is forwarded, in bytes.
const MAX_FORWARDED_BYTES: usize = 1024;

/// Hop-by-hop headers (RFC 9110, 7.6.1), including those of HTTP/1.0.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Headers that claim the client's address, scheme or host.
static FORWARDING_HEADERS: [HeaderName; 5] = [
    header::FORWARDED,
    HeaderName::from_static(X_FORWARDED_FOR),
    HeaderName::from_static(X_FORWARDED_PROTO),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// Returns whether any of these headers is present. Most messages have none, and one pass over all
/// names is faster than a lookup of each.
fn has_any(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    headers.keys().any(|name| names.contains(name))
}

/// Removes hop-by-hop headers: the known ones, and those that `Connection` names.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !has_any(headers, &HOP_BY_HOP) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        for name in connection_options(headers) {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Returns the headers that `Connection` names, except for `Content-Length` and `Host`: without
/// them the message would be read as another one.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect()
}

/// Sets the forwarding headers. Existing ones are trusted from trusted proxies only.
pub(super) fn set_forwarding_headers(
    headers: &mut HeaderMap,
    origin: &RequestOrigin,
    trusted: &[IpNet],
) {
    let peer = origin.peer.ip().to_canonical();
    let is_trusted = trusted
        .iter()
        .any(|network| network.contains(&peer.to_canonical()));
    let previous = if is_trusted {
        trusted_forwarded_for(headers)
    } else {
        remove_forwarding_headers(headers);
        None
    };
    headers.insert(&FORWARDED_FOR, forwarded_for(previous.as_ref(), peer));
    if !is_trusted || !headers.contains_key(&FORWARDED_PROTO) {
        let proto = if origin.is_encrypted { "https" } else { "http" };
        headers.insert(&FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
}

fn remove_forwarding_headers(headers: &mut HeaderMap) {
    if has_any(headers, &FORWARDING_HEADERS) {
        for name in &FORWARDING_HEADERS {
            headers.remove(name);
        }
    }
}

/// Returns the client's address as a trusted proxy forwards it, if its form is valid.
fn trusted_forwarded_for(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(&FORWARDED_FOR).iter();
    let line = lines
        .next()
        .filter(|line| line.len() <= MAX_FORWARDED_BYTES);
    line.filter(|_| lines.next().is_none()).cloned()
}

/// Builds the value of `X-Forwarded-For`, with the router's peer at its end.
fn forwarded_for(previous: Option<&HeaderValue>, peer: IpAddr) -> HeaderValue {
    let previous = previous.and_then(|value| value.to_str().ok());
    let text = match (previous, peer) {
        (Some(previous), peer) => HeaderValue::try_from(format!("{previous}, {peer}")),
        (None, IpAddr::V4(peer)) => HeaderValue::try_from(format_ipv4(peer)),
        (None, peer) => HeaderValue::try_from(peer.to_string()),
    };
    text.unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// Formats an address without the overhead of `fmt`, since each request needs one.
fn format_ipv4(address: Ipv4Addr) -> String {
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in address.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(octet));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn origin(peer: &str) -> RequestOrigin {
        RequestOrigin {
            connection: 0,
            request: 0,
            peer: peer.parse().unwrap(),
            is_encrypted: false,
            is_router: false,
        }
    }

    #[test]
    fn hop_by_hop_headers_are_removed() {
        let mut map = headers(&[
            ("connection", "close, X-Mine"),
            ("connection", "content-length, host, api-key"),
            ("x-mine", "1"),
            ("api-key", "k"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("content-length", "3"),
            ("host", "localhost"),
            ("trailer", "x-t"),
            ("x-other", "2"),
        ]);
        strip_hop_by_hop(&mut map);
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "trailer", "x-other"]);
    }

    #[test]
    fn forwarding_headers_of_untrusted_clients_are_replaced() {
        let mut map = headers(&[
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-real-ip", "1.2.3.4"),
        ]);
        set_forwarding_headers(
            &mut map,
            &origin("9.9.9.9:1"),
            &["10.0.0.0/8".parse().unwrap()],
        );
        assert_eq!(map["x-forwarded-for"], "9.9.9.9");
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map.len(), 2);
    }

    proptest! {
        #[test]
        fn addresses_are_formatted_as_by_the_standard_library(address in any::<Ipv4Addr>()) {
            prop_assert_eq!(format_ipv4(address), address.to_string());
        }
    }

    #[test]
    fn forwarding_headers_of_trusted_proxies_are_kept() {
        let mut map = headers(&[
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
        ]);
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        set_forwarding_headers(&mut map, &origin("[::ffff:10.1.1.1]:1"), &trusted);
        assert_eq!(map["x-forwarded-for"], "1.2.3.4, 10.1.1.1");
        assert_eq!(map["x-forwarded-proto"], "https");
        assert_eq!(map["forwarded"], "for=1.2.3.4");
        let mut twice = headers(&[("x-forwarded-for", "a"), ("x-forwarded-for", "b")]);
        set_forwarding_headers(&mut twice, &origin("10.1.1.1:1"), &trusted);
        assert_eq!(twice["x-forwarded-for"], "10.1.1.1");
    }
}
