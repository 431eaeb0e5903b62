//! Mutual TLS between nodes, and from routers to nodes.
//!
//! Invariant: with certificates, nobody says or hears a word on a connection before both ends have
//! shown a certificate of the cluster's CA, and whoever dials has seen that the other end's names
//! the host that it dialled.
//!
//! Certificates are ordinary ones, and say all by standard fields: the hosts that a node is
//! reached at are subject alternative names, and a node may both serve and call (extended key
//! usages `serverAuth` and `clientAuth`), a router only call. See [`Peer`].
//!
//! | file | what it does |
//! | --- | --- |
//! | `files` | reads the PEM files and checks that they go together |
//! | `reload` | takes new files while the program runs |
//! | `peer` | what the certificate of the other end says |
//! | `stream` | a connection, encrypted or not |
//! | `dial` | connects |
//! | `diagnosis` | why nobody at an address speaks as a node does, and what to set |
//! | `mark` | what connections begin with that are for Raft, for users' requests, or for routers' frames |
//! | `accept` | takes connections for the threads that they are for, and shakes hands with several at once |

mod accept;
mod diagnosis;
mod dial;
mod files;
mod mark;
mod peer;
mod reload;
mod stream;

#[cfg(test)]
mod tests;

pub use accept::{Accepted, Connections, accept};
pub use dial::{DialError, Dialer, host_of};
pub use files::{TlsError, TlsFiles, valid_until};
pub use peer::{Caller, Peer};
pub use reload::{Holder, Tls};
pub use stream::Stream;
