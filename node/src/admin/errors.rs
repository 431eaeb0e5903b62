//! Error responses of the admin port for changes.

use std::io;

use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::node_change::describe_successor;
use crate::service::{DirectoryError, PlanError};
use cloudkv_common::admin::error_response;

/// Reason for which a change was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum OperationError {
    /// The plan in the path is unknown.
    #[error("no such plan: there are free, pro and business")]
    UnknownPlan,
    /// The plan in the body is unknown.
    #[error("plan must be free, pro or business")]
    InvalidPlan,
    /// The body is too long, or was aborted.
    #[error("{}", .0.body_text())]
    UnreadableBody(#[from] BytesRejection),
    /// The body isn't valid JSON of the expected form.
    #[error("the body must be a JSON object with {fields}: {source}")]
    InvalidBody {
        /// Expected fields.
        fields: &'static str,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The plan's limits are invalid, or can't be changed now.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl From<DirectoryError> for OperationError {
    fn from(error: DirectoryError) -> Self {
        Self::Plan(error.into())
    }
}

impl IntoResponse for OperationError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::UnknownPlan => (StatusCode::NOT_FOUND, "unknown_plan"),
            Self::InvalidPlan => (StatusCode::BAD_REQUEST, "invalid_plan"),
            Self::UnreadableBody(rejection) => (rejection.status(), "invalid_body"),
            Self::InvalidBody { .. } => (StatusCode::BAD_REQUEST, "invalid_body"),
            Self::Plan(PlanError::NoChange | PlanError::OutOfBounds { .. }) => {
                (StatusCode::BAD_REQUEST, "invalid_limit")
            }
            Self::Plan(PlanError::Directory(error)) => return directory_response(error),
        };
        error_response(status, code, &self.to_string())
    }
}

fn directory_response(error: &DirectoryError) -> Response {
    let message = error.to_string();
    match error {
        DirectoryError::Unavailable(_) => {
            let mut response =
                error_response(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        DirectoryError::UnknownOutcome => {
            error_response(StatusCode::GATEWAY_TIMEOUT, "unknown_outcome", &message)
        }
        DirectoryError::UnknownBucket => error_response(
            StatusCode::NOT_FOUND,
            "unknown_bucket",
            "no such bucket, or it was deleted",
        ),
        DirectoryError::ExceedsPlan { .. } | DirectoryError::AccessNotInPlan { .. } => {
            error_response(StatusCode::CONFLICT, "exceeds_plan", &message)
        }
        DirectoryError::TooManyBuckets { .. } => {
            error_response(StatusCode::CONFLICT, "plan_limit", &message)
        }
        DirectoryError::DiskFull { .. } => {
            error_response(StatusCode::INSUFFICIENT_STORAGE, "disk_full", &message)
        }
        // These errors occur in users' requests only.
        DirectoryError::Storage(_)
        | DirectoryError::UnknownAccount
        | DirectoryError::NotOwner
        | DirectoryError::ClusterFull { .. }
        | DirectoryError::PlanNotSelfService { .. }
        | DirectoryError::ConfirmMismatch { .. } => {
            tracing::error!(?error, "operator's change failed unexpectedly");
            error_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the node's log says why",
            )
        }
    }
}

/// Reason for which a node isn't changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No node has that number, name or address.
    #[error("node {0} is unknown: `cloudkv-node admin status` lists those that are known")]
    Unknown(String),
    /// Several nodes have the name.
    #[error(
        "{name} may be any of these: {}; name one by its rpc address or its number",
        nodes.join(", ")
    )]
    Ambiguous {
        /// The requested name.
        name: String,
        /// The matching nodes, with addresses and numbers.
        nodes: Vec<String>,
    },
    /// The node was removed, and names are those of present nodes.
    #[error(
        "node {name} was removed from the cluster already{}",
        describe_successor(successor.as_deref())
    )]
    Removed {
        /// The node; its number if another node has its address now.
        name: String,
        /// The present node at its address, with its number.
        successor: Option<String>,
    },
    /// The node to be replaced isn't lost.
    #[error(
        "node {0} is alive, and only a lost node can be replaced: use decommission, or stop it"
    )]
    StillAlive(String),
    /// The region would survive less without the node, and that wasn't confirmed.
    #[error(
        "without node {name}, region {region} survives {without}; with it: {now}. {}",
        confirmation_advice(name, *is_reachable)
    )]
    Unconfirmed {
        /// The node.
        name: String,
        /// The region of the node.
        region: String,
        /// Losses that the region survives with the node.
        now: String,
        /// Losses that the region survives without the node.
        without: String,
        /// True if the node can be reached.
        is_reachable: bool,
    },
    /// The change isn't possible in the current state.
    #[error("{0}")]
    Refused(String),
    /// The outcome can't be determined now.
    #[error("{0}")]
    Unavailable(String),
}

/// Advice about a node whose decommissioning wasn't confirmed.
fn confirmation_advice(name: &str, is_reachable: bool) -> String {
    if is_reachable {
        "If that is intended, confirm it (--yes); else let another node join first".to_owned()
    } else {
        format!(
            "The node can't be reached: if it is lost for good, use `cloudkv-node admin replace \
             {name}`, else start it. If decommissioning it is intended nevertheless, confirm it \
             (--yes)"
        )
    }
}

impl IntoResponse for NodeError {
    fn into_response(self) -> Response {
        let (status, code) = match self {
            Self::Unknown(_) => (StatusCode::NOT_FOUND, "no_such_node"),
            Self::Ambiguous { .. } => (StatusCode::CONFLICT, "ambiguous_node"),
            Self::Unconfirmed { .. } => (StatusCode::CONFLICT, "confirm_required"),
            Self::Removed { .. } | Self::StillAlive(_) | Self::Refused(_) => {
                (StatusCode::CONFLICT, "refused")
            }
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        error_response(status, code, &self.to_string())
    }
}

/// Reason for which a region isn't removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// No region has that name.
    #[error(
        "no region has the name {0:?}: it was removed already, or never existed; `cloudkv-node \
         admin status` lists the known ones"
    )]
    Unknown(String),
    /// A node of the region isn't lost.
    #[error(
        "node {node} of region {region} is alive, and only a region without reachable nodes can be \
         removed: stop its nodes for good. Writes that it hasn't sent by then are lost: see \
         `behind` in the status of its nodes first"
    )]
    StillAlive {
        /// The region.
        region: String,
        /// Name of the node.
        node: String,
    },
    /// The metadata refused the removal.
    #[error("{0}")]
    Refused(String),
    /// The outcome can't be determined now.
    #[error("{0}")]
    Unavailable(String),
}

impl IntoResponse for RegionError {
    fn into_response(self) -> Response {
        let (status, code) = match self {
            Self::Unknown(_) => (StatusCode::NOT_FOUND, "no_such_region"),
            Self::StillAlive { .. } | Self::Refused(_) => (StatusCode::CONFLICT, "refused"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        error_response(status, code, &self.to_string())
    }
}

/// Reason why groups aren't recovered by force.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Nothing can be recovered at this node now.
    #[error("{0}")]
    NotRecoverable(String),
    /// The text isn't that of the report.
    #[error(
        "to confirm what the report says, give this text word by word: {expected}; it names the \
         nodes that are lost, and they may have changed since the last report"
    )]
    WrongConfirmation {
        /// The right text.
        expected: String,
    },
    /// Another recovery of this node isn't finished.
    #[error("{0}")]
    Pending(&'static str),
    /// The metadata refused a change that the recovery needs.
    #[error("{0}")]
    Refused(String),
    /// The outcome of such a change can't be determined now.
    #[error("{0}. Nothing was recovered yet: try again")]
    Unavailable(String),
    /// The recovery can't be stored for the next start.
    #[error("{action} in the data directory: {source}")]
    Storage {
        /// The failed action.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl IntoResponse for RecoveryError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::NotRecoverable(_) => (StatusCode::CONFLICT, "not_recoverable"),
            Self::WrongConfirmation { .. } => (StatusCode::BAD_REQUEST, "wrong_confirmation"),
            Self::Pending(_) => (StatusCode::CONFLICT, "recovery_pending"),
            Self::Refused(_) => (StatusCode::CONFLICT, "refused"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Storage { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        error_response(status, code, &self.to_string())
    }
}
