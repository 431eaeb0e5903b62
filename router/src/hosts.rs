//! Selection of a region by a request's host.
//!
//! `api.<domain>` selects the nearest healthy region, `api.<region>.<domain>` that region. Any
//! other name selects the nearest one too, so that `localhost` works.

/// Region that a host selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegionSelector<'a> {
    /// The nearest healthy region.
    Nearest,
    /// The region with this name, which may be in upper case, and needn't exist.
    Named(&'a str),
}

/// Returns the region that `authority` (`host`, `host:port`, as in `Host` or `:authority`) selects.
pub(crate) fn select_region<'a>(authority: &'a str, domain: &str) -> RegionSelector<'a> {
    region_label(host_of(authority), domain).map_or(RegionSelector::Nearest, RegionSelector::Named)
}

/// Returns the host without its port and the trailing dot of a fully qualified name.
fn host_of(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        // The last colon of an IPv6 address isn't the port's.
        Some((host, port)) if !port.contains(']') => host,
        Some(_) | None => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// Returns the label between `api.` and `.<domain>`, if the host is such a name.
fn region_label<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let (rest, suffix) = host.split_at_checked(host.len().checked_sub(domain.len())?)?;
    if !suffix.eq_ignore_ascii_case(domain) {
        return None;
    }
    let rest = rest.strip_suffix('.')?;
    let (api, region) = rest.split_once('.')?;
    (api.eq_ignore_ascii_case("api") && !region.is_empty() && !region.contains('.'))
        .then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "cloudkv.io";

    #[test]
    fn names_of_regions_select_them_and_all_others_the_nearest() {
        for (authority, region) in [
            ("api.eu-west.cloudkv.io", "eu-west"),
            ("api.eu-west.cloudkv.io:8000", "eu-west"),
            ("api.eu-west.cloudkv.io.", "eu-west"),
            ("api.eu-west.cloudkv.io.:443", "eu-west"),
            ("API.EU-West.CloudKV.io", "EU-West"),
            ("api.no_region.cloudkv.io", "no_region"),
        ] {
            assert_eq!(
                select_region(authority, DOMAIN),
                RegionSelector::Named(region),
                "{authority}"
            );
        }
        for authority in [
            "",
            "api.cloudkv.io",
            "API.cloudkv.io:80",
            "cloudkv.io",
            "www.eu-west.cloudkv.io",
            "api.a.b.cloudkv.io",
            "api..cloudkv.io",
            "api.eu.cloudkv.io.evil.example",
            "api.eu.notcloudkv.io",
            "api.eu.cloudkv.iox",
            "localhost",
            "localhost:8000",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
            "::1",
            "éapi.cloudkv.io",
        ] {
            assert_eq!(
                select_region(authority, DOMAIN),
                RegionSelector::Nearest,
                "{authority}"
            );
        }
    }

    #[test]
    fn a_domain_of_one_label_works() {
        assert_eq!(
            select_region("api.eu.localhost:1", "localhost"),
            RegionSelector::Named("eu")
        );
        assert_eq!(
            select_region("api.localhost", "localhost"),
            RegionSelector::Nearest
        );
    }
}
