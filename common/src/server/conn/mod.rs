//! One connection: its socket, its activity, and the requests on it.
//!
//! hyper bounds sizes. Times are bounded here, and without a timer per request: sockets and
//! requests record their activity in a [`state::ConnectionState`], relaxed counters that nobody
//! else writes; one task of the server sweeps over all connections a few times a second, and
//! [`liveness`], a pure function of activity and time, decides which have been idle or stuck for
//! too long. A shutdown reaches connections in the same way.
//!
//! ```text
//!   socket ──activity──► state ◄──activity── requests (session)
//!                         │ ▲
//!       activity, swept   │ │ directive: drain, evict, cut
//!                         ▼ │
//!                registry ── liveness
//! ```
//!
//! [`response_budget`] bounds the bytes of pending responses, which a client that doesn't read
//! could let grow: each [`response_body`] carries its permit with it, and [`h2_streams`] ends
//! HTTP/2 streams that make no progress.

pub(crate) mod body;
pub(crate) mod drive;
pub(crate) mod h2_streams;
pub(crate) mod linger;
pub(crate) mod liveness;
pub(crate) mod refusal;
pub(crate) mod registry;
pub(crate) mod response_body;
pub(crate) mod response_budget;
pub(crate) mod session;
pub(crate) mod socket;
pub(crate) mod state;
