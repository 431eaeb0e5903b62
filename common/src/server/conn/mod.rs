//! One connection: its socket, what is known of its progress, and the requests on it.
//!
//! hyper bounds sizes. Times are bounded here, and without a timer per request: sockets and
//! requests leave marks on a [`pulse::Pulse`], relaxed counters that nobody else writes; one task
//! of the server sweeps over all connections a few times a second, and [`liveness`], a pure
//! function of marks and time, says which have been idle or stuck for too long. The same way a
//! shutdown reaches connections.
//!
//! ```text
//!   socket (stream) ──marks──► pulse ◄──marks── requests (session)
//!                                │ ▲
//!                    looks every │ │ order: drain, cut
//!                                ▼ │
//!                     registry ── liveness
//! ```
//!
//! [`held`] counts the bytes of answers that wait, which a client that doesn't read could let grow:
//! each answer's [`body`] carries its count with it, and [`streams`] ends those of HTTP/2 that make no
//! progress.

pub(crate) mod body;
pub(crate) mod drive;
pub(crate) mod held;
pub(crate) mod linger;
pub(crate) mod liveness;
pub(crate) mod outbound;
pub(crate) mod pulse;
pub(crate) mod registry;
pub(crate) mod session;
pub(crate) mod stream;
pub(crate) mod streams;
