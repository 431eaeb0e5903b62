//! Checks that each write left one content, in one version of a key.

use std::collections::HashMap;

use super::call_record::CallRecord;

/// Checks that each write has one content and one version, and each version one write. So a value
/// with the metadata of another version is found, whatever the order of the calls.
pub(super) fn check_versions_unique<'a>(
    records: impl Iterator<Item = &'a CallRecord>,
) -> Result<(), String> {
    let (mut contents, mut versions) = (HashMap::new(), HashMap::new());
    let mut writes = HashMap::new();
    for record in records {
        let Some(write) = record.observed_write() else {
            continue;
        };
        if let Some(content) = record.content() {
            let first_content = *contents.entry(write).or_insert(content);
            if first_content != content {
                return Err(format!(
                    "write {write} left two contents: {first_content}, and {content}"
                ));
            }
        }
        let Some(etag) = record.etag.as_deref() else {
            continue;
        };
        let version = *versions.entry(write).or_insert(etag);
        if version != etag {
            return Err(format!(
                "{write} was written twice, as {version} and {etag}"
            ));
        }
        let first_write = *writes.entry(etag).or_insert(write);
        if first_write != write {
            return Err(format!(
                "{etag} is the version of write {first_write} and of {write}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call_record::{Action, Outcome};
    use crate::checker::Content;

    fn call(action: Action, outcome: Outcome, etag: &str) -> CallRecord {
        CallRecord {
            client: 1,
            seat: 0,
            start: 0,
            end: 1,
            action,
            outcome,
            etag: Some(etag.into()),
            batch: None,
        }
    }

    fn check(records: &[CallRecord]) -> Result<(), String> {
        check_versions_unique(records.iter())
    }

    #[test]
    fn torn_contents_are_found() {
        let (plain, full) = (Content::plain(1), Content::with_metadata(2));
        let touched = plain.touched(7);
        let written = [
            call(Action::Put(plain), Outcome::Written, "a"),
            call(Action::Put(full), Outcome::Written, "b"),
            call(Action::Touch(7), Outcome::Written, "c"),
            call(Action::Get, Outcome::Read(touched), "c"),
        ];
        assert_eq!(check(&written), Ok(()));
        let read = |content, etag: &str| {
            let read = call(Action::Get, Outcome::Read(content), etag);
            check(&[&written[..], &[read]].concat())
        };
        assert_eq!(read(plain, "a"), Ok(()));
        assert_eq!(read(full, "b"), Ok(()));
        for (content, etag, expected) in [
            // The metadata of the touch with another value.
            (full.touched(7), "c", "two contents"),
            (full.touched(7), "d", "two contents"),
            // The value without its metadata.
            (Content::plain(2), "b", "two contents"),
            // The value of one version with the ETag of another.
            (plain, "c", "written twice"),
            (touched, "a", "written twice"),
        ] {
            let error = read(content, etag).unwrap_err();
            assert!(error.contains(expected), "{content}: {error}");
        }
    }

    #[test]
    fn a_version_belongs_to_one_write() {
        let delete = call(Action::Delete, Outcome::Written, "a");
        let put = |write, etag| call(Action::Put(Content::plain(write)), Outcome::Written, etag);
        assert_eq!(check(&[delete, put(1, "a"), put(2, "b")]), Ok(()));
        let error = check(&[put(1, "a"), put(2, "a")]).unwrap_err();
        assert!(error.contains("is the version of"), "{error}");
    }
}
