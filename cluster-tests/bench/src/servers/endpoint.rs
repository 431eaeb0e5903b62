//! A running server as a client sees it, and the form of its requests.

use super::kind::ServerKind;
use crate::load::Args;
use crate::workload::Operation;
use std::net::SocketAddr;

/// A running server as a client sees it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Kind of the server.
    pub kind: ServerKind,
    /// Listening address.
    pub addr: SocketAddr,
    /// Processes of the server, whose processor time is summed up.
    pub pids: Vec<u32>,
    /// Paths for GET and PUT, by size of value.
    pub paths: Vec<Paths>,
}

/// Paths of values of one size.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// Bytes of a value.
    pub value_size: usize,
    /// Path of a GET up to the key.
    pub get: String,
    /// Path of a GET after the key.
    pub get_suffix: String,
    /// Path of a PUT up to the key.
    pub put: String,
}

impl Endpoint {
    /// Returns the load options for one operation; `None` for a size without values.
    pub(crate) fn load(&self, operation: Operation, value_size: usize) -> Option<Args> {
        let paths = self
            .paths
            .iter()
            .find(|paths| paths.value_size == value_size)?;
        let (prefix, suffix) = match operation {
            Operation::Get => (&paths.get, paths.get_suffix.as_str()),
            Operation::Put => (&paths.put, ""),
        };
        let mut args = Args::new(self.addr, operation, prefix);
        suffix.clone_into(&mut args.path_suffix);
        args.value_size = value_size;
        args.watch.clone_from(&self.pids);
        Some(args)
    }
}
