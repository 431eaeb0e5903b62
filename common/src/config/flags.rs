//! Command-line flags, derived from a list of settings.

use std::marker::PhantomData;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, FromArgMatches};

use super::error::ConfigError;
use super::kinds::Describe;
use super::setting::Setting;
use super::simple_kinds::Switch;
use super::table::Settings;

/// Settings given as flags.
pub struct Flags<S>(pub Vec<(&'static Setting, String)>, PhantomData<S>);

impl<S: Settings> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &'static Setting| {
            matches
                .get_one::<String>(setting.name)
                .map(|text| (setting, text.clone()))
        };
        Ok(Self(S::ALL.iter().filter_map(given).collect(), PhantomData))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<S: Settings> Args for Flags<S> {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(S::ALL.iter().map(clap_argument::<S>))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn clap_argument<S: Settings>(setting: &Setting) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        text => format!(" [default: {text}]"),
    };
    let argument = Arg::new(setting.name);
    // A switch without a value is on.
    let argument = if setting.kind.placeholder() == Switch.placeholder() {
        argument.num_args(0..=1).default_missing_value("true")
    } else {
        argument
    };
    argument
        .long(setting.flag())
        .value_name(setting.kind.placeholder())
        .hide_short_help(!S::BASIC.contains(&setting.name))
        .help(format!("{}{default}", first_sentence(setting.doc())))
        .long_help(format!(
            "{}{default} [variable: {}]",
            setting.doc(),
            setting.variable()
        ))
}

/// Returns the first clause of a setting's documentation, without its full stop.
fn first_sentence(doc: &str) -> &str {
    let ends = [". ", ": ", ", if ", ", unless "];
    let ends = ends.iter().filter_map(|end| doc.find(end));
    let end = ends.min().unwrap_or(doc.len());
    doc[..end].trim_end_matches('.')
}

/// Returns the text to print if the command line requests help or the version: the parser returns
/// these as errors, but they are none.
///
/// # Errors
/// Fails if the command line is invalid.
pub fn help_or_error(error: clap::Error) -> Result<String, ConfigError> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(error.render().to_string()),
        _ => Err(ConfigError::Usage(error)),
    }
}
