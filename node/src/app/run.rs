//! Runs a node: bind, recover, serve, drain, stop.
//!
//! There are several runtimes, so that load on one can't delay the others: Raft has its own, and so
//! has each thread that serves users; everything else runs on the caller's.

use std::sync::Arc;
use std::time::Instant;

use cloudkv_common::fd_limit::{FileUse, connection_limit, raise_fd_limit};
use cloudkv_common::process::{SystemError, describe_error};
use tokio_util::sync::CancellationToken;

use super::build::NodeBuilder;
use super::errors::RunError;
use super::node::Node;
use super::ports::{Ports, PublicListeners};
use super::start_log;
use super::starting_port::StartingPort;
use super::threads::Threads;
use crate::config::Config;

/// Maximum number of files that the databases of log and state keep open, 1024 each
/// (`max_open_files`).
const MAX_DATABASE_FILES: u64 = 2 * 1024;

/// Connections to and from eight other nodes that each further thread for users holds.
const CONNECTION_FILES_PER_THREAD: u64 = 16;

/// Runs a node until `stop` is cancelled, or until it fails. A region that was not given explicitly
/// is only joined, never created.
pub async fn run(
    mut config: Config,
    is_region_explicit: bool,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let started_at = Instant::now();
    config.max_connections =
        connection_limit(raise_fd_limit(), config.max_connections, file_use(&config))?;
    let (ports, admin_port) = Ports::bind(&config)?;
    start_log::log_process(&config, &ports);
    // Dropped last.
    let threads = Threads::start(&config)?;
    let builder = NodeBuilder {
        config: Arc::new(config),
        is_region_explicit,
        runtimes: threads.runtimes(),
        started_at,
    };
    let (node, starting_port, listeners) = builder.build(ports, admin_port, stop).await?;
    let outcome = run_node(&node, starting_port, listeners).await;
    let outcome = node.shut_down(outcome).await;
    restart_or(outcome, node.restart.reason())
}

/// Returns the request for a restart in place of `outcome`, if there was one. The removal of the
/// node's region, which a recovery starts, also ends the node.
fn restart_or(outcome: Result<(), RunError>, request: Option<&str>) -> Result<(), RunError> {
    let Some(reason) = request else {
        return outcome;
    };
    if let Err(error) = outcome {
        let error = describe_error(&error);
        tracing::warn!(error, "the node did not end in order before its restart");
    }
    Err(RunError::RestartRequested(reason.to_owned()))
}

/// Returns the files that may be open.
fn file_use(config: &Config) -> FileUse {
    let beyond_the_first = config.user_threads().saturating_sub(1) as u64;
    FileUse {
        per_connection: 1,
        own: MAX_DATABASE_FILES + CONNECTION_FILES_PER_THREAD * beyond_the_first,
    }
}

/// Runs a node until a stop is requested and users' requests have completed, or until it fails.
async fn run_node(
    node: &Node,
    starting_port: StartingPort,
    listeners: PublicListeners,
) -> Result<(), RunError> {
    tokio::select! {
        biased;
        why = node.components.wait_for_failure() => Err(RunError::Failed(why)),
        why = node.run_cluster_tasks() => Err(RunError::Failed(why)),
        served = node.serve(starting_port, listeners) => {
            served.map_err(SystemError::while_doing("serve users"))?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_restart_is_what_the_node_ends_with() {
        let reason = "stopped to recover the metadata";
        let failed = || Err(RunError::Failed("it was removed".to_owned()));
        assert!(restart_or(Ok(()), None).is_ok());
        assert!(matches!(
            restart_or(failed(), None),
            Err(RunError::Failed(_))
        ));
        for outcome in [Ok(()), failed()] {
            let error = restart_or(outcome, Some(reason)).unwrap_err();
            assert!(!error.is_requested_stop());
            assert_eq!(error.to_string(), reason);
        }
    }
}
