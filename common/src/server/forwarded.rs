//! For whom a request comes, where proxies stand in between.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::network::Network;

/// The addresses that a request came by, the client's first: each proxy adds whom it got it from.
pub const X_FORWARDED_FOR: &str = "x-forwarded-for";
/// Whether the client spoke `http` or `https`.
pub const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Carries the ID of the cluster, from a router to a node without certificates: who knows it comes from
/// the port for nodes, which only this machine reaches then.
pub static X_CLOUDKV_ROUTER: HeaderName = HeaderName::from_static("x-cloudkv-router");

/// The client's address, of a request that came from `peer`, which may be a router of the cluster.
///
/// That is the last one that isn't a trusted proxy's: what is before it in `X-Forwarded-For` was said
/// by a stranger. Where a trusted proxy says what is no address, it is taken for the client itself.
pub fn client_of(
    peer: IpAddr,
    is_router: bool,
    headers: &HeaderMap,
    trusted: &[Network],
) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(*address));
    let mut client = peer.to_canonical();
    let mut is_believed = is_router || is_trusted(&client);
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let mut before = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    while is_believed {
        let Some(address) = before.next().and_then(address) else {
            break;
        };
        client = address;
        is_believed = is_trusted(&client);
    }
    client
}

/// Some proxies add the port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(peer: &str, lines: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client_of(peer.parse().unwrap(), false, &headers, &trusted).to_string()
    }

    #[test]
    fn routers_are_believed_whatever_their_address_is() {
        let mut headers = HeaderMap::new();
        headers.append(
            X_FORWARDED_FOR,
            HeaderValue::from_static("1.2.3.4, 5.6.7.8"),
        );
        let peer = "9.9.9.9".parse().unwrap();
        let of = |is_router| client_of(peer, is_router, &headers, &[]).to_string();
        assert_eq!((of(true), of(false)), ("5.6.7.8".into(), "9.9.9.9".into()));
    }

    #[test]
    fn strangers_are_not_believed() {
        assert_eq!(client("9.9.9.9", &["1.2.3.4"]), "9.9.9.9");
        assert_eq!(client("::ffff:9.9.9.9", &["1.2.3.4"]), "9.9.9.9");
        assert_eq!(client("10.0.0.1", &["1.2.3.4, 5.6.7.8"]), "5.6.7.8");
        assert_eq!(client("10.0.0.1", &["1.2.3.4", "5.6.7.8"]), "5.6.7.8");
    }

    #[test]
    fn trusted_proxies_are_passed_by() {
        assert_eq!(client("10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client("::ffff:10.0.0.1", &["1.2.3.4:80"]), "1.2.3.4");
        assert_eq!(
            client("fd00::1", &["7.7.7.7, [2001:db8::1]:443 ,10.0.0.2"]),
            "2001:db8::1"
        );
        assert_eq!(
            client("10.0.0.1", &["1.2.3.4,10.0.0.3", "10.0.0.2"]),
            "1.2.3.4"
        );
    }

    #[test]
    fn where_nobody_is_named_it_is_the_last_that_is_known() {
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.2"]), "10.0.0.2");
        for odd in ["unknown", "", "1.2.3.4,", "1.2.3", "for=1.2.3.4"] {
            assert_eq!(client("10.0.0.1", &[odd]), "10.0.0.1", "{odd}");
        }
    }
}
