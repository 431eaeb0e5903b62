//! Digests of all keys of a bucket, from the lines of its export.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};

/// Digests of keys, by their names. An export is written to it.
#[derive(Debug, Default)]
pub(super) struct KeyDigests {
    digests: HashMap<String, u64>,
    /// Begin of a line whose end wasn't written yet.
    rest: Vec<u8>,
}

impl KeyDigests {
    /// Number of keys.
    pub(super) fn len(&self) -> u64 {
        self.digests.len() as u64
    }

    /// Compares the keys with those of another bucket, one by one. Fails with the first that
    /// differ.
    pub(super) fn ensure_equal(&self, restored: &Self) -> Result<()> {
        let differing = self
            .digests
            .iter()
            .filter(|(name, digest)| restored.digests.get(*name) != Some(*digest));
        let differing: Vec<&str> = differing.map(|(name, _)| name.as_str()).collect();
        ensure!(
            differing.is_empty(),
            "{} keys DIFFER or are missing: {:?} ...",
            differing.len(),
            &differing[..differing.len().min(5)]
        );
        let (before, after) = (self.len(), restored.len());
        ensure!(before == after, "{after} keys were restored of {before}");
        Ok(())
    }

    fn add_line(&mut self, line: &[u8]) -> Result<()> {
        let mut line: Value = serde_json::from_slice(line).context("line of an export")?;
        let Some(name) = line["key"].as_str().map(str::to_owned) else {
            // The end of the export.
            return Ok(());
        };
        let version = line["version"].as_str().context("version of a line")?;
        // A restored key is of another region.
        let (time, _) = version.split_once('-').context("time of a version")?;
        line["version"] = Value::from(time);
        let mut hasher = DefaultHasher::new();
        line.to_string().hash(&mut hasher);
        let other = self.digests.insert(name, hasher.finish());
        ensure!(other.is_none(), "a key is exported twice: {line}");
        Ok(())
    }
}

impl Write for KeyDigests {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        self.rest
            .extend_from_slice(pieces.next().unwrap_or_default());
        for piece in pieces {
            let line = std::mem::replace(&mut self.rest, piece.to_vec());
            self.add_line(&line).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(lines: &[&str], piece_bytes: usize) -> KeyDigests {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut digests = KeyDigests::default();
        for piece in text.as_bytes().chunks(piece_bytes) {
            digests.write_all(piece).unwrap();
        }
        digests
    }

    #[test]
    fn keys_are_compared_without_the_region_of_their_versions() {
        let source = digests(
            &[
                r#"{"key":"a","value":"1","version":"0000000000000001-2"}"#,
                r#"{"key":"b","value":"2","version":"0000000000000002-1"}"#,
                r#"{"end":true,"keys":2}"#,
            ],
            7,
        );
        assert_eq!(source.len(), 2);
        let a = r#"{"key":"a","value":"1","version":"0000000000000001-1"}"#;
        let b = r#"{"key":"b","value":"2","version":"0000000000000002-1"}"#;
        let other = r#"{"key":"b","value":"3","version":"0000000000000002-1"}"#;
        let later = r#"{"key":"b","value":"2","version":"0000000000000003-1"}"#;
        let added = r#"{"key":"c","value":"","version":"0000000000000003-1"}"#;
        assert!(source.ensure_equal(&digests(&[b, a], 100)).is_ok());
        for restored in [&[a][..], &[a, other], &[a, later], &[a, b, added]] {
            assert!(source.ensure_equal(&digests(restored, 3)).is_err());
        }
    }
}
