//! Printed configuration: a TOML file with comments.

use std::fmt::Write as _;

use super::setting::Setting;
use super::table::Settings;

/// Formats the settings in effect as TOML with their documentation. Reading it gives the same
/// settings, except for secrets, which are never printed.
pub fn to_toml<S: Settings>(settings: &S) -> String {
    let mut toml = String::new();
    for (setting, text) in S::ALL.iter().zip(settings.texts()) {
        // Writing to a String never fails.
        let _ = write_setting(&mut toml, setting, text);
    }
    toml
}

fn write_setting(
    toml: &mut String,
    setting: &Setting,
    text: Option<String>,
) -> Result<(), std::fmt::Error> {
    if !toml.is_empty() {
        toml.push('\n');
    }
    for line in wrapped(setting.doc()) {
        writeln!(toml, "# {line}")?;
    }
    write!(
        toml,
        "# Flag --{}, variable {}",
        setting.flag(),
        setting.variable()
    )?;
    match setting.default {
        "" => writeln!(toml, ".")?,
        default => writeln!(toml, "; default {default}.")?,
    }
    let name = setting.name;
    match text {
        Some(text) if setting.kind.is_bare() => writeln!(toml, "{name} = {text}"),
        Some(text) => writeln!(toml, "{name} = {}", toml::Value::String(text)),
        None if setting.kind.is_secret() => writeln!(toml, "# {name} = \"...\" (never printed)"),
        None => writeln!(toml, "# {name} = ..."),
    }
}

/// Wraps text into lines that fit a terminal.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + word.len() < 96 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
