//! URLs of places for backups.

use std::path::PathBuf;

use object_store::path::Path;
use percent_encoding::percent_decode_str;

use super::error::BackupError;

/// Place that a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// Folder of this machine, as an absolute path.
    Folder(PathBuf),
    /// Bucket of an S3-compatible store, and the path in it, which may be empty.
    Bucket {
        /// Name of the bucket.
        name: String,
        /// Path within it.
        path: Path,
    },
}

impl Location {
    /// Parses a URL.
    pub(super) fn parse(url: &str) -> Result<Self, BackupError> {
        let parsed = match url.split_once("://") {
            _ if has_credentials(url) => {
                Err("it has credentials, which belong into the environment".to_owned())
            }
            _ if url.contains(['?', '#']) => Err("it has a query or a fragment".to_owned()),
            Some(("file", path)) => parse_folder(path),
            Some(("s3", path)) => parse_bucket(path),
            Some((scheme, _)) => Err(format!("its scheme is `{scheme}`")),
            None => Err("it has no scheme".to_owned()),
        };
        parsed.map_err(|why| BackupError::BadUrl {
            url: printable(url),
            why,
        })
    }
}

/// Returns the URL without slashes at its end.
pub(super) fn trimmed(url: &str) -> &str {
    url.trim_end_matches('/')
}

fn has_credentials(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or_default();
    rest.split('/')
        .next()
        .is_some_and(|host| host.contains('@'))
}

/// Returns the URL as it may be printed: without credentials, which nobody should have given.
fn printable(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, _)) if has_credentials(url) => format!("{scheme}://..."),
        _ => url.to_owned(),
    }
}

fn parse_folder(path: &str) -> Result<Location, String> {
    let path = percent_decode_str(trimmed(path)).decode_utf8();
    let path = path.map_err(|_| "its path isn't UTF-8".to_owned())?;
    let Some(relative) = path.strip_prefix('/') else {
        return Err("its path isn't absolute".to_owned());
    };
    check_segments(relative)?;
    Ok(Location::Folder(PathBuf::from(path.as_ref())))
}

fn parse_bucket(rest: &str) -> Result<Location, String> {
    let rest = trimmed(rest);
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_valid) {
        return Err("its bucket is no bucket's name".to_owned());
    }
    if !path.is_empty() {
        check_segments(path)?;
    }
    Ok(Location::Bucket {
        name: name.to_owned(),
        path: Path::parse(path).map_err(|error| error.to_string())?,
    })
}

/// Refuses paths that a folder can have under several names, and one without any segment.
fn check_segments(path: &str) -> Result<(), String> {
    if path.split('/').any(|it| matches!(it, "" | "." | "..")) {
        return Err("its path has an empty segment, or one of dots".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_buckets_are_parsed() {
        let folder = |path: &str| Location::Folder(PathBuf::from(path));
        let bucket = |name: &str, path: &str| Location::Bucket {
            name: name.to_owned(),
            path: Path::parse(path).unwrap(),
        };
        for (url, location) in [
            ("file:///var/backups", folder("/var/backups")),
            ("file:///var/backups/", folder("/var/backups")),
            ("file:///a%20b/c d", folder("/a b/c d")),
            ("s3://bucket", bucket("bucket", "")),
            ("s3://bucket/", bucket("bucket", "")),
            ("s3://my.bucket-1/a/b/", bucket("my.bucket-1", "a/b")),
        ] {
            assert_eq!(Location::parse(url).unwrap(), location, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_with_what_would_be_right() {
        for (url, why) in [
            ("/var/backups", "no scheme"),
            ("ftp://host/folder", "its scheme is `ftp`"),
            ("https://bucket.example.com/folder", "its scheme is `https`"),
            ("file://folder", "isn't absolute"),
            ("file://", "isn't absolute"),
            ("file:///", "isn't absolute"),
            ("file:///a//b", "empty segment"),
            ("file:///a/../b", "one of dots"),
            ("file:///a/%2e%2e/b", "one of dots"),
            ("file:///a?b", "a query"),
            ("s3://", "no bucket's name"),
            ("s3:///folder", "no bucket's name"),
            ("s3://a b/folder", "no bucket's name"),
            ("s3://bucket//folder", "empty segment"),
        ] {
            let text = Location::parse(url).unwrap_err().to_string();
            assert!(text.contains(why) && text.contains(url), "{text}");
            assert!(text.contains("file:///FOLDER") && text.contains("s3://BUCKET"));
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_printed() {
        let text = Location::parse("s3://key:hidden@bucket/folder").unwrap_err();
        let text = text.to_string();
        assert!(text.contains("environment") && !text.contains("hidden"));
        // An @ within the path is none.
        Location::parse("s3://bucket/a@b").unwrap();
    }
}
