//! The certificate for users: loaded when the router starts, and reloaded when its files change.
//!
//! Invariant: files that can't be read or don't match have no effect: the previous certificate
//! stays in use, and the log gives the reason.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use cloudkv_common::server::TlsSettings;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_util::sync::CancellationToken;

/// Interval at which the files are checked for changes.
const LOOK: Duration = Duration::from_millis(500);

/// Reason for which a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or isn't PEM.
    #[error("read {setting} {}: {source}", path.display())]
    File {
        /// Setting with the file's path.
        setting: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// Certificate and key are invalid, or don't match.
    #[error("use tls_cert and tls_key: {0}")]
    Unfit(#[from] rustls::Error),
}

/// Files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    /// File of the certificate and its chain.
    pub certificate: PathBuf,
    /// File of the private key.
    pub key: PathBuf,
}

/// Modification times and sizes of the files, by which changes are noticed.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Files {
    /// Loads both files.
    pub fn load(&self) -> Result<ServerConfig, TlsError> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| wrong("tls_cert", &self.certificate, source))?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|source| wrong("tls_key", &self.key, source))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| stamp(path).ok())
    }
}

fn wrong(setting: &'static str, path: &Path, source: pem::Error) -> TlsError {
    TlsError::File {
        setting,
        path: path.to_owned(),
        source,
    }
}

fn stamp(path: &Path) -> io::Result<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

/// A certificate in use, which is reloaded when its files change.
pub struct Certificate {
    files: Files,
    used: Stamp,
    settings: TlsSettings,
}

impl Certificate {
    /// Loads a certificate and its key.
    pub fn open(files: Files) -> Result<Self, TlsError> {
        let stamps = files.stamp();
        let settings = Arc::new(ArcSwap::from_pointee(files.load()?));
        Ok(Self {
            files,
            used: stamps,
            settings,
        })
    }

    /// TLS settings for new connections.
    pub fn settings(&self) -> TlsSettings {
        self.settings.clone()
    }

    /// Reloads changed files until `stop`.
    pub async fn follow(mut self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            self.look();
        }
    }

    fn look(&mut self) {
        let stamps = self.files.stamp();
        if stamps == self.used {
            return;
        }
        self.used = stamps;
        match self.files.load() {
            Ok(config) => {
                self.settings.store(Arc::new(config));
                tracing::info!("certificate reloaded");
            }
            // The two files are written one after the other: the next check sees both.
            Err(error) => {
                tracing::warn!(%error, "certificate reload failed, the previous one stays in use");
            }
        }
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}
