//! Texts of settings from the file, the variables and the flags, before they are parsed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{ConfigError, SettingSource};
use super::kinds::Kind;
use super::setting::{Setting, VARIABLE_PREFIX};

/// Variable that names the configuration file.
const FILE_VARIABLE: &str = "CLOUDKV_CONFIG";

/// Texts by setting, each from the source that takes precedence.
pub struct SettingSources {
    settings: &'static [Setting],
    texts: BTreeMap<&'static str, (String, SettingSource)>,
}

impl SettingSources {
    /// Creates empty sources for these settings.
    pub fn new(settings: &'static [Setting]) -> Self {
        Self {
            settings,
            texts: BTreeMap::new(),
        }
    }

    /// Adds the flags, which override everything.
    pub(super) fn add_flags(&mut self, flags: Vec<(&'static Setting, String)>) {
        for (setting, text) in flags {
            let origin = SettingSource::Flag(format!("--{}", setting.flag()));
            self.texts.insert(setting.name, (text, origin));
        }
    }

    /// Adds the variables, and returns the path of the file that one of them names.
    ///
    /// Unknown variables with our prefix are ignored, since Kubernetes derives
    /// `CLOUDKV_SERVICE_HOST` and the like from names of services.
    ///
    /// # Errors
    /// Fails if a variable is almost the name of a setting, and so probably misspelled, or isn't
    /// Unicode.
    pub fn add_variables(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Option<PathBuf>, ConfigError> {
        let mut file = None;
        for (name, value) in variables {
            let Some(name) = name
                .to_str()
                .filter(|name| name.starts_with(VARIABLE_PREFIX))
            else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            if name == FILE_VARIABLE {
                file = Some(PathBuf::from(value));
                continue;
            }
            let origin = SettingSource::Variable(name.to_owned());
            let mut all = self.settings.iter();
            let Some(setting) = all.find(|setting| setting.variable() == name) else {
                reject_misspelled_variable(self.settings, name, origin)?;
                continue;
            };
            let text = value.into_string().map_err(|_| ConfigError::NotUnicode {
                variable: name.to_owned(),
            })?;
            self.texts.insert(setting.name, (text, origin));
        }
        Ok(file)
    }

    /// Adds the file, which is overridden by variables and flags.
    ///
    /// # Errors
    /// Fails if it can't be read, isn't TOML, or has a section, an unknown setting or a value of a
    /// wrong type.
    pub(super) fn add_file(&mut self, path: Option<PathBuf>) -> Result<(), ConfigError> {
        let Some(path) = path else { return Ok(()) };
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let table: toml::Table = text.parse().map_err(|source| ConfigError::Syntax {
            path: path.clone(),
            source: Box::new(source),
        })?;
        for (key, value) in table {
            let origin = SettingSource::File(path.clone());
            if is_section(&value) {
                return Err(ConfigError::UnexpectedSection { name: key, origin });
            }
            let Some(setting) = self.settings.iter().find(|setting| setting.name == key) else {
                let names = self.settings.iter().map(|setting| setting.name.to_owned());
                let nearest = nearest_names(&key, names, 3);
                return Err(ConfigError::UnknownSetting {
                    name: key,
                    origin,
                    nearest,
                });
            };
            let text = file_text(setting, &value, &origin)?;
            self.texts.entry(setting.name).or_insert((text, origin));
        }
        Ok(())
    }

    /// Returns the text of a setting and its source.
    pub fn text(&self, name: &str) -> (String, SettingSource) {
        self.texts.get(name).cloned().unwrap_or_else(|| {
            let default = self.settings.iter().find(|setting| setting.name == name);
            (
                default.map_or("", |setting| setting.default).to_owned(),
                SettingSource::Default,
            )
        })
    }

    /// Parses the value of a setting.
    ///
    /// # Errors
    /// Fails if it is invalid.
    pub fn read<K: Kind>(&self, name: &'static str, kind: &K) -> Result<K::Value, ConfigError> {
        let (text, origin) = self.text(name);
        kind.parse(&text).ok_or_else(|| ConfigError::InvalidValue {
            setting: name,
            origin,
            value: if kind.is_secret() {
                "(not shown)".to_owned()
            } else {
                text
            },
            right: kind.expected(),
        })
    }
}

/// Returns whether a value of the file is a section, `[name]` or `[[name]]`.
fn is_section(value: &toml::Value) -> bool {
    match value {
        toml::Value::Table(_) => true,
        toml::Value::Array(items) => items.iter().any(toml::Value::is_table),
        _ => false,
    }
}

/// Returns a value of the file as text, if it is of the setting's TOML type.
fn file_text(
    setting: &Setting,
    value: &toml::Value,
    origin: &SettingSource,
) -> Result<String, ConfigError> {
    match (value, setting.kind.is_bare()) {
        (toml::Value::String(text), false) => Ok(text.clone()),
        (toml::Value::Integer(_) | toml::Value::Boolean(_), true) => Ok(value.to_string()),
        (toml::Value::Integer(_), false) if setting.kind.accepts_numbers() => Ok(value.to_string()),
        (_, bare) => Err(ConfigError::InvalidValue {
            setting: setting.name,
            origin: origin.clone(),
            value: if setting.kind.is_secret() {
                "(not shown)".into()
            } else {
                value.to_string()
            },
            right: match (bare, setting.kind.accepts_numbers()) {
                (true, _) => format!("{}, without quotes", setting.kind.expected()),
                (false, true) => format!("{}, in quotes if it has a unit", setting.kind.expected()),
                (false, false) => format!("{}, in quotes", setting.kind.expected()),
            },
        }),
    }
}

fn reject_misspelled_variable(
    settings: &[Setting],
    name: &str,
    origin: SettingSource,
) -> Result<(), ConfigError> {
    let names = settings
        .iter()
        .map(Setting::variable)
        .chain([FILE_VARIABLE.to_owned()]);
    let nearest = nearest_names(name, names, 2);
    if nearest.is_empty() {
        return Ok(());
    }
    Err(ConfigError::UnknownSetting {
        name: name.to_owned(),
        origin,
        nearest,
    })
}

/// Returns up to three names within so many edits of `name`.
fn nearest_names(name: &str, names: impl Iterator<Item = String>, edits: usize) -> Vec<String> {
    let mut near: Vec<(usize, String)> = names
        .map(|known| (strsim::damerau_levenshtein(&known, name), known))
        .filter(|(distance, _)| *distance <= edits)
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, known)| known).collect()
}
