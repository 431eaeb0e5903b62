//! Kinds of settings without parameters, such as bounds.

use std::path::PathBuf;

use super::kinds::{Describe, Kind};
use super::values::{RegionName, Secret};
use crate::telemetry::logs::{self, LogFormat};

/// Implements the description of a kind without parameters.
macro_rules! describe {
    ($kind:ty, $placeholder:literal, $right:expr $(, $method:ident)?) => {
        impl Describe for $kind {
            fn placeholder(&self) -> &'static str {
                $placeholder
            }
            fn expected(&self) -> String {
                $right.to_owned()
            }
            $( fn $method(&self) -> bool {
                true
            } )?
        }
    };
}

/// Path of a directory.
pub struct DirectoryPath;

describe!(DirectoryPath, "DIR", "the path of a directory");

impl Kind for DirectoryPath {
    type Value = PathBuf;
    fn parse(&self, text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }
    fn write(&self, value: &PathBuf) -> Option<String> {
        Some(value.display().to_string())
    }
}

/// Name of a region.
pub struct RegionNameKind;

describe!(
    RegionNameKind,
    "NAME",
    "1 to 32 characters out of a-z, 0-9 and -, as in eu-west"
);

impl Kind for RegionNameKind {
    type Value = RegionName;
    fn parse(&self, text: &str) -> Option<RegionName> {
        RegionName::parse(text)
    }
    fn write(&self, value: &RegionName) -> Option<String> {
        Some(value.as_str().to_owned())
    }
}

/// Boolean.
pub struct Switch;

describe!(Switch, "true|false", "true or false", is_bare);

impl Kind for Switch {
    type Value = bool;
    fn parse(&self, text: &str) -> Option<bool> {
        text.parse().ok()
    }
    fn write(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// Log filter.
pub struct LogLevels;

describe!(
    LogLevels,
    "FILTER",
    "error, warn, info, debug, trace or off, or such levels for parts of the program, as in \
     info,cloudkv_node::raft=debug"
);

impl Kind for LogLevels {
    type Value = String;
    fn parse(&self, text: &str) -> Option<String> {
        logs::parse_filter(text).is_ok().then(|| text.to_owned())
    }
    fn write(&self, value: &String) -> Option<String> {
        Some(value.clone())
    }
}

/// Format of log lines.
pub struct LogFormatKind;

describe!(LogFormatKind, "text|json", "text or json");

impl Kind for LogFormatKind {
    type Value = LogFormat;
    fn parse(&self, text: &str) -> Option<LogFormat> {
        [LogFormat::Text, LogFormat::Json]
            .into_iter()
            .find(|format| format.name() == text)
    }
    fn write(&self, value: &LogFormat) -> Option<String> {
        Some(value.name().to_owned())
    }
}

/// Secret that is sent in a header.
pub struct SecretToken;

describe!(
    SecretToken,
    "TOKEN",
    "at least 16 ASCII characters without spaces",
    is_secret
);

impl Kind for SecretToken {
    type Value = Secret;
    fn parse(&self, text: &str) -> Option<Secret> {
        let is_valid = text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_valid.then(|| Secret::new(text.to_owned()))
    }
    fn write(&self, _: &Secret) -> Option<String> {
        None
    }
}

/// Path of a file.
pub struct FilePath;

describe!(FilePath, "FILE", "the path of a file");

impl Kind for FilePath {
    type Value = PathBuf;
    fn parse(&self, text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }
    fn write(&self, value: &PathBuf) -> Option<String> {
        Some(value.display().to_string())
    }
}
