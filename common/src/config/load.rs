//! Reads the settings of a program from all sources.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::ConfigError;
use super::flags::Flags;
use super::sources::SettingSources;
use super::table::Settings;

/// Reads the variables, the configuration file, and the flags. `file` is the file that a flag
/// names; without it, one of the variables may name it.
///
/// # Errors
/// Fails if a source is invalid.
pub fn read_sources<S: Settings>(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    file: Option<PathBuf>,
    flags: Flags<S>,
) -> Result<SettingSources, ConfigError> {
    let mut sources = SettingSources::new(S::ALL);
    let file_from_variable = sources.add_variables(variables)?;
    sources.add_file(file.or(file_from_variable))?;
    sources.add_flags(flags.0);
    Ok(sources)
}

/// Reads all sources as [`read_sources`] does, parses the settings, and checks them together.
///
/// # Errors
/// Fails if a source or a value is invalid, or if `check` fails.
pub fn load_settings<S: Settings>(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    file: Option<PathBuf>,
    flags: Flags<S>,
    check: impl FnOnce(&S) -> Result<(), ConfigError>,
) -> Result<(S, SettingSources), ConfigError> {
    let sources = read_sources(variables, file, flags)?;
    let settings = S::from_sources(&sources)?;
    check(&settings)?;
    Ok((settings, sources))
}
