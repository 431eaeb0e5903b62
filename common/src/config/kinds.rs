//! Kinds of settings: their valid values, and how these are parsed and formatted.
//!
//! Text is the one form that flags, variables, files and defaults share, so each kind has one
//! parser, and the same text means the same in every source. Kinds without parameters are in
//! `simple_kinds.rs`.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Description of a kind for help and messages.
pub trait Describe: Sync {
    /// Returns the placeholder for the value in the help.
    fn placeholder(&self) -> &'static str;
    /// Returns the valid values, as the end of "expected ...".
    fn expected(&self) -> String;
    /// Returns whether TOML writes it bare (numbers, booleans) and not as a string.
    fn is_bare(&self) -> bool {
        false
    }
    /// Returns whether TOML accepts an integer without quotes, too, where values are strings
    /// otherwise.
    fn accepts_numbers(&self) -> bool {
        false
    }
    /// Returns whether values must not be shown.
    fn is_secret(&self) -> bool {
        false
    }
}

/// Parser and formatter of a kind.
pub trait Kind: Describe {
    /// Type of a parsed value.
    type Value;
    /// Parses a value; `None` if it is invalid.
    fn parse(&self, text: &str) -> Option<Self::Value>;
    /// Formats a value so that it can be parsed; `None` if it isn't set, or secret.
    fn write(&self, value: &Self::Value) -> Option<String>;
}

/// Address to listen on.
pub struct ListenAddress;

impl Describe for ListenAddress {
    fn placeholder(&self) -> &'static str {
        "IP:PORT"
    }
    fn expected(&self) -> String {
        "an IP address and a port, as in 127.0.0.1:8080 or [::]:8080".to_owned()
    }
}

impl Kind for ListenAddress {
    type Value = SocketAddr;
    fn parse(&self, text: &str) -> Option<SocketAddr> {
        match text.strip_prefix("localhost:") {
            Some(port) => Some((IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?).into()),
            None => SocketAddr::from_str(text).ok(),
        }
    }
    fn write(&self, value: &SocketAddr) -> Option<String> {
        Some(value.to_string())
    }
}

/// Integer within bounds.
pub struct Number<T> {
    /// Minimum.
    pub min: T,
    /// Maximum.
    pub max: T,
}

impl<T: Display + Sync> Describe for Number<T> {
    fn placeholder(&self) -> &'static str {
        "NUMBER"
    }
    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }
    fn is_bare(&self) -> bool {
        true
    }
}

impl<T: Display + Sync + FromStr + PartialOrd> Kind for Number<T> {
    type Value = T;
    fn parse(&self, text: &str) -> Option<T> {
        text.parse()
            .ok()
            .filter(|value| (&self.min..=&self.max).contains(&value))
    }
    fn write(&self, value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

/// Duration within bounds.
pub struct TimeSpan {
    /// Minimum, in milliseconds.
    pub min_ms: u64,
    /// Maximum, in milliseconds.
    pub max_ms: u64,
}

impl Describe for TimeSpan {
    fn placeholder(&self) -> &'static str {
        "TIME"
    }
    fn expected(&self) -> String {
        let [min, max] = [self.min_ms, self.max_ms].map(format_span);
        format!(
            "a time from {min} to {max}, with its unit (ms, s, m, h, d) as in 250ms, 10s or 1h30m; \
             a number alone is seconds"
        )
    }
    fn accepts_numbers(&self) -> bool {
        true
    }
}

impl Kind for TimeSpan {
    type Value = Duration;
    fn parse(&self, text: &str) -> Option<Duration> {
        let span = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => humantime::parse_duration(text).ok()?,
        };
        let ms = u64::try_from(span.as_millis()).ok()?;
        let is_whole = span.subsec_nanos().is_multiple_of(1_000_000);
        (is_whole && (self.min_ms..=self.max_ms).contains(&ms)).then_some(span)
    }
    fn write(&self, value: &Duration) -> Option<String> {
        u64::try_from(value.as_millis()).ok().map(format_span)
    }
}

/// Formats a duration in the largest unit that divides it.
fn format_span(ms: u64) -> String {
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
    ];
    units
        .into_iter()
        .find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit))
        .map_or_else(
            || format!("{ms}ms"),
            |(unit, name)| format!("{}{name}", ms / unit),
        )
}

/// Duration within bounds, or 0 for off.
pub struct TimeSpanOrOff(pub TimeSpan);

impl Describe for TimeSpanOrOff {
    fn placeholder(&self) -> &'static str {
        self.0.placeholder()
    }
    fn expected(&self) -> String {
        format!("0, or {}", self.0.expected())
    }
    fn accepts_numbers(&self) -> bool {
        true
    }
}

impl Kind for TimeSpanOrOff {
    type Value = Option<Duration>;
    fn parse(&self, text: &str) -> Option<Option<Duration>> {
        if text == "0" {
            Some(None)
        } else {
            self.0.parse(text).map(Some)
        }
    }
    fn write(&self, value: &Option<Duration>) -> Option<String> {
        value
            .as_ref()
            .map_or_else(|| Some("0".to_owned()), |span| self.0.write(span))
    }
}

/// Optional setting; an empty text counts as not set.
pub struct Optional<K>(pub K);

impl<K: Describe> Describe for Optional<K> {
    fn placeholder(&self) -> &'static str {
        self.0.placeholder()
    }
    fn expected(&self) -> String {
        self.0.expected()
    }
    fn is_bare(&self) -> bool {
        self.0.is_bare()
    }
    fn accepts_numbers(&self) -> bool {
        self.0.accepts_numbers()
    }
    fn is_secret(&self) -> bool {
        self.0.is_secret()
    }
}

impl<K: Kind> Kind for Optional<K> {
    type Value = Option<K::Value>;
    fn parse(&self, text: &str) -> Option<Self::Value> {
        if text.is_empty() {
            Some(None)
        } else {
            self.0.parse(text).map(Some)
        }
    }
    fn write(&self, value: &Self::Value) -> Option<String> {
        value.as_ref().and_then(|value| self.0.write(value))
    }
}
