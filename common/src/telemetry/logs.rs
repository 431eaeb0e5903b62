//! Structured logs on standard error, as text for people or as JSON for collectors.
//!
//! Standard output is reserved for commands that print a result.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::log_dedup::DedupFormat;

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

impl LogFormat {
    /// Returns the name in the settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Error of starting to log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Filter that can't be parsed.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Subscriber that is installed already.
    #[error("start logging")]
    Init(#[from] TryInitError),
}

/// Error of parsing a log filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Text of the wrong form.
    #[error("parse log filter")]
    Syntax(#[from] ParseError),
    /// Single word that isn't a level. The library would take it for the name of a module, so that
    /// `inf` for `info` would silence everything.
    #[error("{0:?} is not a log level")]
    Level(String),
}

/// Parses a log filter: a level, or levels by module, separated by commas.
///
/// # Errors
/// Fails if the text isn't a filter.
pub fn parse_filter(text: &str) -> Result<EnvFilter, FilterError> {
    for word in text.split(',').filter(|word| !word.contains(['=', '['])) {
        // The library accepts an empty text as a level.
        if word.is_empty() || word.parse::<LevelFilter>().is_err() {
            return Err(FilterError::Level(word.to_owned()));
        }
    }
    Ok(EnvFilter::builder().parse(text)?)
}

/// Maximum levels of libraries' modules that a filter doesn't name: at `debug` they log each frame
/// and each heartbeat. The errors of openraft that are off are ordinary events here: a node that is
/// unreachable, or a leader that has lost its leadership.
const LIBRARY_CAPS: [(&str, LevelFilter); 14] = [
    ("h2", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
    ("hyper_util", LevelFilter::INFO),
    ("mio", LevelFilter::INFO),
    ("openraft", LevelFilter::ERROR),
    ("openraft::core::heartbeat", LevelFilter::OFF),
    ("openraft::raft::api::management", LevelFilter::OFF),
    ("openraft::raft::raft_inner", LevelFilter::OFF),
    ("rustls", LevelFilter::INFO),
    ("tokio_rustls", LevelFilter::INFO),
    ("tokio_util", LevelFilter::INFO),
    ("tonic", LevelFilter::INFO),
    ("tower", LevelFilter::INFO),
    ("want", LevelFilter::INFO),
];

/// Adds to a filter those [`LIBRARY_CAPS`] that it exceeds and doesn't name.
fn with_library_caps(text: &str) -> String {
    let words = || text.split(',');
    let mut levels = words().filter_map(|word| word.parse::<LevelFilter>().ok());
    // ERROR is the library's default.
    let base = levels.next_back().unwrap_or(LevelFilter::ERROR);
    let is_named = |target: &str| {
        words().any(|word| {
            let name = word.split(['=', '[']).next().unwrap_or_default();
            let rest = target
                .strip_prefix(name)
                .filter(|_| word.contains(['=', '[']));
            !name.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    };
    let caps = LIBRARY_CAPS
        .iter()
        .filter(|(target, cap)| *cap < base && !is_named(target));
    caps.fold(text.to_owned(), |text, (target, cap)| {
        format!("{text},{target}={cap}")
    })
}

/// Starts to log to standard error. Libraries that `levels` doesn't name log no more than by
/// default, and repeated lines are deduplicated.
///
/// # Errors
/// Fails if `levels` isn't a filter, or the process logs already.
pub fn init(levels: &str, format: LogFormat) -> Result<(), LogError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(&with_library_caps(levels))?)
        .with_ansi(use_colors())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let lines = lines.map_event_format(DedupFormat::new);
            lines.finish().try_init()?;
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            lines
                .map_event_format(DedupFormat::new)
                .finish()
                .try_init()?;
        }
    }
    Ok(())
}

/// Returns whether to use colors: on a terminal, unless `NO_COLOR` is set (no-color.org).
fn use_colors() -> bool {
    let is_disabled = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
    std::io::stderr().is_terminal() && !is_disabled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_filters() {
        for text in [
            "info",
            "off",
            "WARN",
            "info,cloudkv_node::raft=debug",
            "tower=info,warn",
        ] {
            assert!(parse_filter(text).is_ok(), "{text}");
        }
    }

    /// Returns the level that a filter with caps gives a target.
    fn level_of(text: &str, target: &str) -> Option<String> {
        let capped = with_library_caps(text);
        assert!(parse_filter(&capped).is_ok(), "{capped}");
        let mut levels = capped.split(',').filter_map(|word| {
            let (name, level) = word.split_once('=')?;
            (name == target).then(|| level.to_owned())
        });
        levels.next_back()
    }

    #[test]
    fn libraries_log_no_more_at_debug_than_by_default() {
        let heartbeat = "openraft::core::heartbeat";
        for text in ["info", "debug", "trace", "debug,cloudkv_node::raft=trace"] {
            assert_eq!(
                level_of(text, "openraft").as_deref(),
                Some("error"),
                "{text}"
            );
            assert_eq!(level_of(text, heartbeat).as_deref(), Some("off"), "{text}");
        }
        assert_eq!(level_of("debug", "h2").as_deref(), Some("info"));
    }

    #[test]
    fn a_filter_that_names_a_library_overrides_its_cap() {
        let heartbeat = "openraft::core::heartbeat";
        let named = "info,openraft=debug";
        assert_eq!(level_of(named, "openraft").as_deref(), Some("debug"));
        assert_eq!(
            level_of(named, heartbeat),
            None,
            "a module of what is named"
        );
        let part = "debug,openraft::core=trace";
        assert_eq!(level_of(part, "openraft").as_deref(), Some("error"));
        assert_eq!(level_of(part, heartbeat), None);
        assert_eq!(level_of("debug,h2[conn]=trace", "h2"), None);
        assert_eq!(
            level_of("debug,hyp=trace", "hyper").as_deref(),
            Some("info")
        );
    }

    #[test]
    fn caps_raise_no_level() {
        for text in ["off", "error", "warn", "cloudkv_node=debug"] {
            assert_eq!(level_of(text, "h2"), None, "{text}");
        }
        assert_eq!(level_of("warn", "openraft").as_deref(), Some("error"));
        assert_eq!(level_of("error", "openraft"), None);
    }

    #[test]
    fn a_misspelled_level_is_refused() {
        for text in ["inf", "", "info,", "info,cloudkv_node=debgu", "info,tower"] {
            assert!(parse_filter(text).is_err(), "{text}");
        }
    }
}
