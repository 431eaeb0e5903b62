//! Macro that turns a list of settings into a struct and its description.

use super::error::ConfigError;
use super::setting::Setting;
use super::sources::SettingSources;

/// List of settings, as [`settings!`](crate::settings) declares it.
pub trait Settings: Sized {
    /// All settings in the order of their declaration.
    const ALL: &'static [Setting];

    /// Names of the settings that most operators need: the short help shows no others.
    const BASIC: &'static [&'static str];

    /// Parses each setting from its source, or from its default.
    ///
    /// # Errors
    /// Fails if a value is invalid.
    fn from_sources(sources: &SettingSources) -> Result<Self, ConfigError>;

    /// Returns the values as text, in the order of [`ALL`](Self::ALL); `None`: not set, or secret.
    fn texts(&self) -> Vec<Option<String>>;
}

/// Declares the settings of a program, one `name: type = kind => "default"` each, with its
/// documentation: a struct `Config` that implements [`Settings`]. The names in brackets before them
/// are those that the short help shows.
#[macro_export]
macro_rules! settings {
    (
        [ $( $basic:ident ),+ $(,)? ]
        $( $(#[doc = $doc:literal])+ $name:ident: $type:ty = $kind:expr => $default:literal, )+
    ) => {
        /// Settings of the program, each valid by itself and all of them together.
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

            fn from_sources(
                sources: &$crate::config::SettingSources,
            ) -> Result<Self, $crate::config::ConfigError> {
                Ok(Self { $( $name: sources.read(stringify!($name), &$kind)?, )+ })
            }

            fn texts(&self) -> Vec<Option<String>> {
                vec![$( $crate::config::Kind::write(&$kind, &self.$name) ),+]
            }
        }
    };
}
