//! Answers the calls of other nodes and routers.
//!
//! `rpc` receives them, and knows no more of them than their frames; here each one is passed to the
//! component that it is for: a Raft group, the replication between regions, the cluster's
//! membership, the service, or the API.
//!
//! | file | what it does |
//! | --- | --- |
//! | `dispatch` | passes each call to its component |
//! | `log_query` | answers how far this node's log of a group reaches |
//! | `pong` | answers pings: the groups that this node leads, and its condition |
//! | `server_context` | builds what the server of the rpc port needs |

mod dispatch;
mod log_query;
mod pong;
mod server_context;

pub(crate) use dispatch::CallHandlers;
pub(crate) use server_context::{MAX_MESSAGE_BYTES, server_context};
