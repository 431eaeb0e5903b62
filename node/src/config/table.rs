//! The macro that turns the list of settings into [`Config`](super::Config) and its description.

use super::kinds::Describe;

/// A setting as help, messages and the printed configuration need it.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    /// Its field and its key in the file.
    pub name: &'static str,
    /// Its documentation.
    doc: &'static str,
    /// Its default as text; empty: not set.
    pub default: &'static str,
    /// What is right for it.
    pub kind: &'static dyn Describe,
}

impl Setting {
    pub const fn new(
        name: &'static str,
        doc: &'static str,
        default: &'static str,
        kind: &'static dyn Describe,
    ) -> Self {
        Self {
            name,
            doc,
            default,
            kind,
        }
    }

    /// Its documentation on one line.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// Its flag, without the dashes before it.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("{}{}", super::sources::PREFIX, self.name.to_uppercase())
    }
}

/// Declares the settings, one `name: type = kind => "default"` each, with its documentation.
macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $name:ident: $type:ty = $kind:expr => $default:literal, )+) => {
        /// The settings of a node, each valid in itself and all of them together.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $name: $type, )+
        }

        /// All settings in the order of their declaration.
        pub(super) static SETTINGS: &[super::table::Setting] = &[
            $( super::table::Setting::new(
                stringify!($name), concat!($($doc),+), $default, &$kind,
            ), )+
        ];

        impl Config {
            /// Reads each setting from what was found, or from its default.
            pub(super) fn from_found(
                found: &super::sources::Found,
            ) -> Result<Self, super::ConfigError> {
                Ok(Self { $( $name: found.read(stringify!($name), &$kind)?, )+ })
            }

            /// The values as text, in the order of [`SETTINGS`]; `None`: not set, or secret.
            pub(super) fn texts(&self) -> Vec<Option<String>> {
                vec![$( super::kinds::Kind::write(&$kind, &self.$name) ),+]
            }
        }
    };
}

pub(super) use settings;
