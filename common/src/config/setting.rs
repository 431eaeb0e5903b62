//! Description of a setting, and its name in each source.

use super::kinds::Describe;

/// Prefix of all variables.
pub(super) const VARIABLE_PREFIX: &str = "CLOUDKV_";

/// Setting as help, messages and the printed configuration need it.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Name of its field and key of the file.
    pub name: &'static str,
    /// Documentation of the setting.
    doc: &'static str,
    /// Default as text; empty: not set.
    pub default: &'static str,
    /// Kind of its values.
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

    /// Returns the documentation on one line.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// Returns the flag, without the leading dashes.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Returns the environment variable.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_uppercase())
    }
}
