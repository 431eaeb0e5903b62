//! Why the settings were refused, said to a person who wants to mend them.

use std::fmt;
use std::path::PathBuf;

/// Where a setting's value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Why the settings were refused. The process should print it and end with
/// [`EXIT_CODE`](Self::EXIT_CODE).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line isn't one.
    #[error("{}", usage(.0))]
    Usage(clap::Error),
    /// A value isn't right.
    #[error("{setting} = {value:?} ({origin}): expected {right}")]
    Wrong {
        /// The setting.
        setting: &'static str,
        /// Where the value came from.
        origin: Origin,
        /// The value; not shown if it is secret.
        value: String,
        /// What would be right.
        right: String,
    },
    /// Settings that are right alone don't go together.
    #[error("{problem}: {right}")]
    Conflict {
        /// The settings and their values.
        problem: String,
        /// What would be right.
        right: String,
    },
    /// A name that no setting has.
    #[error("there is no setting {name:?} ({origin}){}", did_you_mean(.nearest))]
    Unknown {
        /// The name.
        name: String,
        /// Where it stands.
        origin: Origin,
        /// The names that are most like it.
        nearest: Vec<String>,
    },
    /// The file has a section.
    #[error(
        "[{name}] ({origin}) is a section, and settings have none: write each of them as \
         `name = value` on a line of its own, without sections"
    )]
    Section {
        /// Its name.
        name: String,
        /// The file.
        origin: Origin,
    },
    /// A variable's value isn't Unicode.
    #[error("variable {variable} is not valid Unicode")]
    NotUnicode {
        /// The variable.
        variable: String,
    },
    /// The configuration file can't be read.
    #[error("read configuration file {}: {source}", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file isn't TOML.
    #[error("configuration file {} is not valid TOML: {source}", path.display())]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

impl ConfigError {
    /// What a process that was given wrong settings ends with, as is usual for wrong usage.
    pub const EXIT_CODE: u8 = 2;
}

/// The parser's message without its own "error: ", which comes before all of ours.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.strip_prefix("error: ")
        .unwrap_or(&text)
        .trim_end()
        .to_owned()
}

fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => "; --help lists them all".to_owned(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}
