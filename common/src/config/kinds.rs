//! Kinds of settings: what is right for one, how it is read from text and written back.
//!
//! Text is the one form that flags, variables, files and defaults share, so each kind has one
//! reader, and the same text means the same wherever it stands. Kinds without facts of their own
//! are in `words.rs`.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// What people need to know of a kind.
pub trait Describe: Sync {
    /// What stands for the value in the help.
    fn placeholder(&self) -> &'static str;
    /// What would be right, as the end of "expected ...".
    fn right(&self) -> String;
    /// Whether TOML writes it bare (numbers, booleans) and not as a string.
    fn bare(&self) -> bool {
        false
    }
    /// Whether a whole number without quotes is right in TOML, too, where else values are strings.
    fn takes_numbers(&self) -> bool {
        false
    }
    /// Whether values may not be shown.
    fn secret(&self) -> bool {
        false
    }
}

/// How a kind is read and written.
pub trait Kind: Describe {
    /// What it is once it was read.
    type Value;
    /// The value that `text` says; `None` if it isn't right.
    fn parse(&self, text: &str) -> Option<Self::Value>;
    /// The text that gives `value` when read; `None` if it isn't set, or secret.
    fn write(&self, value: &Self::Value) -> Option<String>;
}

/// An address to listen on.
pub struct Address;

impl Describe for Address {
    fn placeholder(&self) -> &'static str {
        "IP:PORT"
    }
    fn right(&self) -> String {
        "an IP address and a port, as in 127.0.0.1:8080 or [::]:8080".to_owned()
    }
}

impl Kind for Address {
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

/// A whole number within bounds.
pub struct Number<T> {
    /// The smallest that is right.
    pub min: T,
    /// The largest that is right.
    pub max: T,
}

impl<T: Display + Sync> Describe for Number<T> {
    fn placeholder(&self) -> &'static str {
        "NUMBER"
    }
    fn right(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }
    fn bare(&self) -> bool {
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

/// A length of time within bounds.
pub struct Span {
    /// The shortest that is right, in milliseconds.
    pub min_ms: u64,
    /// The longest that is right, in milliseconds.
    pub max_ms: u64,
}

impl Describe for Span {
    fn placeholder(&self) -> &'static str {
        "TIME"
    }
    fn right(&self) -> String {
        let [min, max] = [self.min_ms, self.max_ms].map(span_text);
        format!(
            "a time from {min} to {max}, with its unit (ms, s, m, h, d) as in 250ms, 10s or 1h30m; \
             a number alone is seconds"
        )
    }
    fn takes_numbers(&self) -> bool {
        true
    }
}

impl Kind for Span {
    type Value = Duration;
    fn parse(&self, text: &str) -> Option<Duration> {
        let span = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => humantime::parse_duration(text).ok()?,
        };
        let ms = u64::try_from(span.as_millis()).ok()?;
        let whole = span.subsec_nanos().is_multiple_of(1_000_000);
        (whole && (self.min_ms..=self.max_ms).contains(&ms)).then_some(span)
    }
    fn write(&self, value: &Duration) -> Option<String> {
        u64::try_from(value.as_millis()).ok().map(span_text)
    }
}

/// A time in the largest unit that holds it exactly.
fn span_text(ms: u64) -> String {
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

/// A length of time, or 0 for what is switched off.
pub struct OrOff(pub Span);

impl Describe for OrOff {
    fn placeholder(&self) -> &'static str {
        self.0.placeholder()
    }
    fn right(&self) -> String {
        format!("0, or {}", self.0.right())
    }
    fn takes_numbers(&self) -> bool {
        true
    }
}

impl Kind for OrOff {
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

/// A setting that may be left out; so is one whose text is empty.
pub struct Maybe<K>(pub K);

impl<K: Describe> Describe for Maybe<K> {
    fn placeholder(&self) -> &'static str {
        self.0.placeholder()
    }
    fn right(&self) -> String {
        self.0.right()
    }
    fn bare(&self) -> bool {
        self.0.bare()
    }
    fn takes_numbers(&self) -> bool {
        self.0.takes_numbers()
    }
    fn secret(&self) -> bool {
        self.0.secret()
    }
}

impl<K: Kind> Kind for Maybe<K> {
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
