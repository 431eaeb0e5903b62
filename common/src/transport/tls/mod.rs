//! Mutual TLS between nodes, and from routers to nodes.
//!
//! Invariant: with certificates, no message is sent or received on a connection before both ends
//! have shown a certificate of the cluster's CA, and the dialing end has verified that the other
//! end's certificate names the host that it dialed.
//!
//! Certificates are ordinary ones, and only use standard fields: the hosts at which a node is
//! reached are subject alternative names, and a node may both serve and call (extended key usages
//! `serverAuth` and `clientAuth`), a router only call. See [`CertificateHolder`].
//!
//! | file | contents |
//! | --- | --- |
//! | `files` | reading and validation of the PEM files |
//! | `reload` | the certificates in use, reloaded when the files change |
//! | `peer` | identity of the other end, by its certificate |
//! | `stream` | a connection, encrypted or not |
//! | `dial` | connecting |
//! | `diagnosis` | why no node answers at an address, and what to set |
//! | `preamble` | first bytes of connections for Raft and for users' requests |
//! | `acceptor` | accepting and handshakes, and routing of connections to threads |

mod acceptor;
mod diagnosis;
mod dial;
mod files;
mod peer;
mod preamble;
mod reload;
mod stream;

#[cfg(test)]
mod tests;

pub use acceptor::{AcceptedConnections, Connections, accept};
pub(crate) use diagnosis::in_words;
pub use dial::{DialError, Dialer};
pub use files::{TlsError, TlsFiles, valid_until};
pub use peer::{CertificateHolder, PeerIdentity};
pub use reload::{Tls, TlsRole};
pub use stream::PeerStream;
