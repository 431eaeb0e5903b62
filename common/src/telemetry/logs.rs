//! Structured logs on standard error, as text for people or as JSON for collectors.
//!
//! Standard output is left to commands that print an answer.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::LogFormat;

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter isn't one.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The process logs already.
    #[error("start logging")]
    Init(#[from] TryInitError),
}

/// Why a text doesn't say what to log.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It isn't of the right form.
    #[error("parse log filter")]
    Syntax(#[from] ParseError),
    /// A word alone that isn't a level. The library would take it for the name of a part of the
    /// program, so that `inf` for `info` would silence everything.
    #[error("{0:?} is not a log level")]
    Level(String),
}

/// Reads what to log: a level, or levels by part of the program, separated by commas.
pub fn filter(text: &str) -> Result<EnvFilter, FilterError> {
    for word in text.split(',').filter(|word| !word.contains(['=', '['])) {
        // The library reads an empty text as a level.
        if word.is_empty() || word.parse::<LevelFilter>().is_err() {
            return Err(FilterError::Level(word.to_owned()));
        }
    }
    Ok(EnvFilter::builder().parse(text)?)
}

/// Sends the process's log lines to standard error from here on.
pub fn init(levels: &str, format: LogFormat) -> Result<(), LogError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(levels)?)
        .with_ansi(colours())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// Colours are for people only, and only for those who didn't ask for none (no-color.org).
fn colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
    std::io::stderr().is_terminal() && !unwanted
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
            assert!(filter(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for text in ["inf", "", "info,", "info,cloudkv_node=debgu", "info,tower"] {
            assert!(filter(text).is_err(), "{text}");
        }
    }
}
