//! The macro that turns a list of settings into a struct and its description.

use super::error::ConfigError;
use super::kinds::Describe;
use super::sources::Found;

/// A setting as help, messages and the printed configuration need it.
#[derive(Clone, Copy)]
pub struct Setting {
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
    /// Describes a setting.
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

/// A list of settings, as [`settings!`](crate::settings) declares it.
pub trait Settings: Sized {
    /// All settings in the order of their declaration.
    const ALL: &'static [Setting];

    /// The names of those that most who start the program need: the short help shows no others.
    const BASIC: &'static [&'static str];

    /// Reads each setting from what was found, or from its default.
    fn from_found(found: &Found) -> Result<Self, ConfigError>;

    /// The values as text, in the order of [`ALL`](Self::ALL); `None`: not set, or secret.
    fn texts(&self) -> Vec<Option<String>>;
}

/// Declares the settings of a program, one `name: type = kind => "default"` each, with its
/// documentation: a struct `Config` that is [`Settings`]. Before them, in brackets, come the names
/// of those that the short help shows.
#[macro_export]
macro_rules! settings {
    (
        [ $( $basic:ident ),+ $(,)? ]
        $( $(#[doc = $doc:literal])+ $name:ident: $type:ty = $kind:expr => $default:literal, )+
    ) => {
        /// The settings of the program, each valid in itself and all of them together.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $name: $type, )+
        }

        impl $crate::config::Settings for Config {
            const ALL: &'static [$crate::config::Setting] = &[
                $( $crate::config::Setting::new(
                    stringify!($name), concat!($($doc),+), $default, &$kind,
                ), )+
            ];

            const BASIC: &'static [&'static str] = &[ $( stringify!($basic) ),+ ];

            fn from_found(
                found: &$crate::config::Found,
            ) -> Result<Self, $crate::config::ConfigError> {
                Ok(Self { $( $name: found.read(stringify!($name), &$kind)?, )+ })
            }

            fn texts(&self) -> Vec<Option<String>> {
                vec![$( $crate::config::Kind::write(&$kind, &self.$name) ),+]
            }
        }
    };
}
