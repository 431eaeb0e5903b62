//! What an import does with keys that exist.

use crate::api::errors::ApiError;
use crate::api::http::query::Query;

/// Parameters of an import.
pub(crate) const PARAMETERS: [&str; 1] = ["mode"];

/// What an import does with keys that exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ImportMode {
    /// They are overwritten.
    #[default]
    Overwrite,
    /// They stay.
    Skip,
    /// They stay, unless the line's version is newer than theirs.
    Newer,
    /// As `Newer`; and a key that was deleted after the line was written, as far as that is known,
    /// stays deleted, and a line that has expired deletes an older value of its key. Not for
    /// clients, whose lines may have versions of another cluster.
    Merge,
}

impl ImportMode {
    /// All modes that a client can choose.
    pub(crate) const ALL: [Self; 3] = [Self::Overwrite, Self::Skip, Self::Newer];

    /// Returns the name in requests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Overwrite => "overwrite",
            Self::Skip => "skip",
            Self::Newer => "newer",
            Self::Merge => "merge",
        }
    }

    /// Returns whether lines are compared by their versions.
    pub(super) fn compares_versions(self) -> bool {
        match self {
            Self::Newer | Self::Merge => true,
            Self::Overwrite | Self::Skip => false,
        }
    }

    /// Reads the mode of a request, which may have no other parameters.
    pub(super) fn parse(query: Query<'_>) -> Result<Self, ApiError> {
        query.refuse_unknown(&PARAMETERS)?;
        let [mode] = PARAMETERS;
        let Some(name) = query.get(mode)? else {
            return Ok(Self::default());
        };
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| ApiError::invalid_parameter("mode must be overwrite, skip or newer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_optional_and_one_of_three() {
        fn parse(text: Option<&str>) -> Result<ImportMode, &'static str> {
            ImportMode::parse(Query::new(text)).map_err(|error| error.code())
        }
        assert_eq!(parse(None), Ok(ImportMode::Overwrite));
        for mode in ImportMode::ALL {
            let query = format!("mode={}", mode.name());
            assert_eq!(parse(Some(&query)), Ok(mode));
        }
        for query in [
            "mode=",
            "mode=Skip",
            "mode=merge",
            "mode=skip&mode=skip",
            "modes=skip",
        ] {
            assert_eq!(parse(Some(query)), Err("invalid_parameter"), "{query}");
        }
    }
}
