//! Certificates for a region's nodes, issued by the node's own command, as an operator does it.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::seats::Seat;
use crate::node_command;

/// A CA and the certificates that it signed.
#[derive(Debug)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Creates a CA, in a folder in `dir`.
    pub fn create(dir: &Path) -> Self {
        let dir = dir.join("certs");
        run(&dir, &["init"]);
        Self { dir }
    }

    /// Issues a node's certificate; returns the arguments by which the node uses it.
    pub(super) fn issue_for_seat(&self, seat: &Seat) -> Vec<String> {
        self.issue_node(seat.rpc().ip())
    }

    /// Issues the certificate of a node at a host; returns the arguments by which the node uses it.
    pub fn issue_node(&self, host: IpAddr) -> Vec<String> {
        run(&self.dir, &["node", &host.to_string()]);
        self.arguments(host)
    }

    /// Issues a router's certificate; returns the arguments by which the router uses it.
    pub fn issue_router(&self, name: &str) -> Vec<String> {
        run(&self.dir, &["router", name]);
        self.arguments(name)
    }

    /// Returns the arguments by which the holder of a certificate uses it.
    pub fn arguments(&self, holder: impl Display) -> Vec<String> {
        let files = [
            ("--rpc-cert", self.file(&holder, "pem")),
            ("--rpc-key", self.file(&holder, "key")),
            ("--rpc-ca", self.dir.join("ca.pem")),
        ];
        let files = files.into_iter();
        files
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect()
    }

    /// Replaces a host's certificate and key by new ones, valid for `days`.
    pub fn renew(&self, host: IpAddr, days: u32) {
        let (host, days) = (host.to_string(), days.to_string());
        run(&self.dir, &["node", &host, "--renew", "--days", &days]);
    }

    /// Returns the path of a host's certificate.
    pub fn certificate(&self, host: IpAddr) -> PathBuf {
        self.file(&host, "pem")
    }

    fn file(&self, holder: &dyn Display, kind: &str) -> PathBuf {
        self.dir.join(format!("{holder}.{kind}"))
    }
}

fn run(dir: &Path, args: &[&str]) {
    let mut command = node_command();
    let command = command.arg("certs").args(args).arg("--dir").arg(dir);
    let output = command.output().expect("run the node's command");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "certs {}: {stderr}",
        args.join(" ")
    );
}
