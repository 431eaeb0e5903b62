//! Errors of settings, with what to do about them.

use std::fmt;
use std::path::PathBuf;

/// Source of a setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingSource {
    /// Default, since no value was given.
    Default,
    /// Configuration file.
    File(PathBuf),
    /// Environment variable.
    Variable(String),
    /// Flag, with its dashes.
    Flag(String),
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Error of the settings. The process should print it and exit with
/// [`EXIT_USAGE`](crate::process::EXIT_USAGE).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Command line that can't be parsed.
    #[error("{}", usage(.0))]
    Usage(clap::Error),
    /// Value that its setting doesn't accept.
    #[error("{setting} = {value:?} ({origin}): expected {right}")]
    InvalidValue {
        /// Name of the setting.
        setting: &'static str,
        /// Source of the value.
        origin: SettingSource,
        /// Value; not shown if it is secret.
        value: String,
        /// Expected values.
        right: String,
    },
    /// Settings that are valid by themselves, but not together.
    #[error("{problem}: {right}")]
    Conflict {
        /// Settings and their values.
        problem: String,
        /// Expected values.
        right: String,
    },
    /// Name that no setting has.
    #[error("{}{}", unknown_name(.name, .origin), did_you_mean(.nearest))]
    UnknownSetting {
        /// Name that was given.
        name: String,
        /// Source of the name.
        origin: SettingSource,
        /// Names that are most similar.
        nearest: Vec<String>,
    },
    /// Section in the configuration file.
    #[error(
        "[{name}] ({origin}) is a section, and settings have none: write each of them as \
         `name = value` on a line of its own, without sections"
    )]
    UnexpectedSection {
        /// Name of the section.
        name: String,
        /// Source, a file.
        origin: SettingSource,
    },
    /// Variable whose value isn't Unicode.
    #[error("variable {variable} is not valid Unicode")]
    NotUnicode {
        /// Name of the variable.
        variable: String,
    },
    /// Configuration file that can't be read.
    #[error("read configuration file {}: {source}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// Configuration file that isn't TOML.
    #[error("configuration file {} is not valid TOML: {source}", path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Error of the parser, with its position.
        source: Box<toml::de::Error>,
    },
}

/// Returns the parser's message without its prefix "error: ", which the program prints itself.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.strip_prefix("error: ")
        .unwrap_or(&text)
        .trim_end()
        .to_owned()
}

/// Describes a name that no setting has, with its source.
fn unknown_name(name: &str, origin: &SettingSource) -> String {
    match origin {
        // The source is the name.
        SettingSource::Variable(_) => format!("there is no setting for the {origin}"),
        _ => format!("there is no setting {name:?} ({origin})"),
    }
}

fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => "; --help lists them all".to_owned(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}
