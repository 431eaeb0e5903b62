//! Names of hosts, and addresses of the form `host:port`.

/// Returns whether a text consists of characters of hosts' names, as IPv4 addresses do, too.
pub fn is_host_name(text: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.bytes().all(is_name_byte)
}

/// Returns the host of `host:port`, an IPv6 address without its brackets.
pub fn host_of(address: &str) -> Option<&str> {
    let (host, _) = address.rsplit_once(':')?;
    Some(without_brackets(host).unwrap_or(host)).filter(|host| !host.is_empty())
}

/// Returns the IPv6 address in brackets.
pub(crate) fn without_brackets(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_separated_from_ports() {
        assert_eq!(host_of("eu1.example:7070"), Some("eu1.example"));
        assert_eq!(host_of("[fd00::1]:7070"), Some("fd00::1"));
        assert_eq!(host_of("eu1"), None);
        assert_eq!(host_of(":7070"), None);
    }
}
