//! `cloudkv-node certs`: creates a private CA, and certificates for nodes and routers, for
//! operators who have no CA yet. The certificates are such as the rpc port requires
//! (`cloudkv_common::transport::tls`); any other CA can issue the same.
//!
//! Key files are readable by their owner only. No file is overwritten without `--renew`.

mod commands;
mod files;
mod init;
mod issue;
mod setup;

#[cfg(test)]
mod tests;

pub use commands::run;
pub use files::CertsError;
