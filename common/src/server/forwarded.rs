//! Client address of a request that came through proxies.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use ipnet::IpNet;

/// Header with the addresses that a request passed, the client's first: each proxy appends the one
/// that it got the request from.
pub const X_FORWARDED_FOR: &str = "x-forwarded-for";
/// Header with the client's scheme, `http` or `https`.
pub const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Header with the cluster's ID, from a router to a node without certificates: who knows it has
/// read it from the rpc port, which then only this machine reaches.
pub static X_CLOUDKV_ROUTER: HeaderName = HeaderName::from_static("x-cloudkv-router");

/// Returns the client's address of a request from `peer`, which may be a router of the cluster.
///
/// That is the last address that isn't a trusted proxy's: addresses before it in `X-Forwarded-For`
/// come from an untrusted sender. A trusted proxy that gives no valid address counts as the client
/// itself.
pub fn client_address(
    peer: IpAddr,
    is_router: bool,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    let mut may_forward = is_router || is_trusted(&client);
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let mut previous = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    while may_forward {
        let Some(address) = previous.next().and_then(parse_address) else {
            break;
        };
        client = address;
        may_forward = is_trusted(&client);
    }
    client
}

/// Parses an address, with or without a port: some proxies append one.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn resolved_client(peer: &str, lines: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client_address(peer.parse().unwrap(), false, &headers, &trusted).to_string()
    }

    #[test]
    fn routers_are_trusted_whatever_their_address_is() {
        let mut headers = HeaderMap::new();
        headers.append(
            X_FORWARDED_FOR,
            HeaderValue::from_static("1.2.3.4, 5.6.7.8"),
        );
        let peer = "9.9.9.9".parse().unwrap();
        let of = |is_router| client_address(peer, is_router, &headers, &[]).to_string();
        assert_eq!((of(true), of(false)), ("5.6.7.8".into(), "9.9.9.9".into()));
    }

    #[test]
    fn untrusted_peers_cant_forward() {
        assert_eq!(resolved_client("9.9.9.9", &["1.2.3.4"]), "9.9.9.9");
        assert_eq!(resolved_client("::ffff:9.9.9.9", &["1.2.3.4"]), "9.9.9.9");
        assert_eq!(
            resolved_client("10.0.0.1", &["1.2.3.4, 5.6.7.8"]),
            "5.6.7.8"
        );
        assert_eq!(
            resolved_client("10.0.0.1", &["1.2.3.4", "5.6.7.8"]),
            "5.6.7.8"
        );
    }

    #[test]
    fn trusted_proxies_are_skipped() {
        assert_eq!(resolved_client("10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(
            resolved_client("::ffff:10.0.0.1", &["1.2.3.4:80"]),
            "1.2.3.4"
        );
        assert_eq!(
            resolved_client("fd00::1", &["7.7.7.7, [2001:db8::1]:443 ,10.0.0.2"]),
            "2001:db8::1"
        );
        assert_eq!(
            resolved_client("10.0.0.1", &["1.2.3.4,10.0.0.3", "10.0.0.2"]),
            "1.2.3.4"
        );
    }

    #[test]
    fn without_a_valid_address_the_last_known_one_counts() {
        assert_eq!(resolved_client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(resolved_client("10.0.0.1", &["10.0.0.2"]), "10.0.0.2");
        for invalid in ["unknown", "", "1.2.3.4,", "1.2.3", "for=1.2.3.4"] {
            assert_eq!(
                resolved_client("10.0.0.1", &[invalid]),
                "10.0.0.1",
                "{invalid}"
            );
        }
    }
}
