//! Keeps connections from using up the file descriptors that the program itself needs.
//!
//! Each connection is an open file, and untrusted clients open connections. Without a free file
//! descriptor the storage can't begin a new log file, and a router reaches no node. So the number
//! of connections is bounded by what is left after all files that the program may need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside a program's own: up to 256 connections that are being rejected, 64 of operators,
/// files that are being written, listeners, connections of nodes.
const SPARE_FILES: u64 = 512;
/// Minimum number of connections; with fewer than this, and than configured, the program won't run.
const MIN_CONNECTIONS: usize = 64;

/// The limit of open files is too low for the program.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {limit} files, which are too few: raise the hard limit of open files \
     (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of Docker) to at least {least}; \
     max_connections = {wanted} needs {all}"
)]
pub struct FdLimitError {
    limit: u64,
    least: u64,
    wanted: usize,
    all: u64,
}

/// Raises the limit of open files as far as the process may, and returns it; `None`: no limit.
pub fn raise_fd_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "raising the limit of open files failed");
            limit.current
        }
    }
}

/// Files that a program may need open.
#[derive(Clone, Copy, Debug)]
pub struct FileUse {
    /// Files of each connection of a user.
    pub per_connection: u64,
    /// All others.
    pub own: u64,
}

impl FileUse {
    /// Returns the files that may be open with so many connections.
    fn with_connections(self, connections: usize) -> u64 {
        let connections = u64::try_from(connections).unwrap_or(u64::MAX);
        let files = connections.saturating_mul(self.per_connection);
        files.saturating_add(self.own + SPARE_FILES)
    }

    /// Returns how many connections may be open within `limit` files.
    fn connections_within(self, limit: u64) -> usize {
        let left = limit.saturating_sub(self.own + SPARE_FILES);
        usize::try_from(left / self.per_connection.max(1)).unwrap_or(usize::MAX)
    }
}

/// Returns how many of `wanted` connections fit into `limit` beside the program's own files.
///
/// # Errors
/// Fails if fewer than the minimum fit.
pub fn connection_limit(
    limit: Option<u64>,
    wanted: usize,
    files: FileUse,
) -> Result<usize, FdLimitError> {
    let Some(limit) = limit else {
        return Ok(wanted);
    };
    let available = files.connections_within(limit);
    let all = files.with_connections(wanted);
    if available >= wanted {
        return Ok(wanted);
    }
    if available < MIN_CONNECTIONS {
        let least = files.with_connections(wanted.min(MIN_CONNECTIONS));
        return Err(FdLimitError {
            limit,
            least,
            wanted,
            all,
        });
    }
    tracing::warn!(
        max_connections = wanted,
        effective = available,
        limit,
        "connection limit lowered below max_connections: raise the hard limit of open files to \
         {all} (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
    );
    Ok(available)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE_FILES: FileUse = FileUse {
        per_connection: 1,
        own: 2048,
    };

    #[test]
    fn all_connections_fit_without_a_limit_or_below_it() {
        assert_eq!(connection_limit(None, 1_000_000, NODE_FILES), Ok(1_000_000));
        assert_eq!(
            connection_limit(Some(1 << 20), 10_000, NODE_FILES),
            Ok(10_000)
        );
        assert_eq!(
            connection_limit(Some(12_560), 10_000, NODE_FILES),
            Ok(10_000)
        );
    }

    #[test]
    fn connections_are_bounded_by_the_files_left() {
        assert_eq!(
            connection_limit(Some(12_559), 10_000, NODE_FILES),
            Ok(9_999)
        );
        assert_eq!(connection_limit(Some(4096), 10_000, NODE_FILES), Ok(1536));
        assert_eq!(connection_limit(Some(2624), 10_000, NODE_FILES), Ok(64));
    }

    #[test]
    fn fewer_than_the_minimum_are_allowed_if_configured() {
        assert_eq!(connection_limit(Some(2570), 10, NODE_FILES), Ok(10));
    }

    #[test]
    fn too_few_files_are_refused_with_the_number_needed() {
        for limit in [0, 1024, 2560, 2623] {
            let error = connection_limit(Some(limit), 10_000, NODE_FILES).unwrap_err();
            let text = error.to_string();
            for part in [&limit.to_string(), "at least 2624", "10000 needs 12560"] {
                assert!(text.contains(part), "{text}");
            }
        }
        let error = connection_limit(Some(2569), 10, NODE_FILES).unwrap_err();
        assert!(error.to_string().contains("at least 2570"), "{error}");
    }

    #[test]
    fn a_connection_may_need_several_files() {
        let files = FileUse {
            per_connection: 2,
            own: 512,
        };
        assert_eq!(connection_limit(Some(21_024), 10_000, files), Ok(10_000));
        assert_eq!(connection_limit(Some(21_023), 10_000, files), Ok(9_999));
        assert_eq!(connection_limit(Some(20_000), 10_000, files), Ok(9_488));
        let error = connection_limit(Some(600), 10_000, files).unwrap_err();
        let text = error.to_string();
        for part in ["may open 600 files", "at least 1152", "10000 needs 21024"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        assert_eq!(raise_fd_limit(), getrlimit(Resource::Nofile).current);
    }
}
