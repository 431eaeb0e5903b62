//! The certificate for users: loaded when the router starts, and reloaded when its files change.
//!
//! Invariant: files that can't be read or don't match have no effect: the previous certificate
//! stays in use, and the log gives the reason.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use cloudkv_common::server::SharedTlsConfig;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_util::sync::CancellationToken;

/// Interval at which the files are checked for changes.
const RELOAD_INTERVAL: Duration = Duration::from_millis(500);

/// Reason for which a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
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
    Invalid(#[from] rustls::Error),
}

/// Files of a certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    /// File of the certificate and its chain.
    pub certificate: PathBuf,
    /// File of the private key.
    pub key: PathBuf,
}

/// Modification times and sizes of the files, by which changes are noticed.
type FileStamps = [Option<(SystemTime, u64)>; 2];

impl CertificateFiles {
    /// Loads both files.
    pub(crate) fn load(&self) -> Result<ServerConfig, CertificateError> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| file_error("tls_cert", &self.certificate, source))?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|source| file_error("tls_key", &self.key, source))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn stamps(&self) -> FileStamps {
        [&self.certificate, &self.key].map(|path| file_stamp(path).ok())
    }
}

fn file_error(setting: &'static str, path: &Path, source: pem::Error) -> CertificateError {
    CertificateError::File {
        setting,
        path: path.to_owned(),
        source,
    }
}

fn file_stamp(path: &Path) -> io::Result<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

/// A certificate in use, which is reloaded when its files change.
pub(crate) struct ReloadingCertificate {
    files: CertificateFiles,
    stamps: FileStamps,
    settings: SharedTlsConfig,
}

impl ReloadingCertificate {
    /// Loads a certificate and its key.
    pub(crate) fn open(files: CertificateFiles) -> Result<Self, CertificateError> {
        let stamps = files.stamps();
        let settings = Arc::new(ArcSwap::from_pointee(files.load()?));
        Ok(Self {
            files,
            stamps,
            settings,
        })
    }

    /// TLS settings for new connections.
    pub(crate) fn settings(&self) -> SharedTlsConfig {
        self.settings.clone()
    }

    /// Reloads changed files until `stop`.
    pub(crate) async fn watch(mut self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL))
            .await
            .is_some()
        {
            self.reload_if_changed();
        }
    }

    fn reload_if_changed(&mut self) {
        let stamps = self.files.stamps();
        if stamps == self.stamps {
            return;
        }
        self.stamps = stamps;
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

impl std::fmt::Debug for ReloadingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadingCertificate")
            .finish_non_exhaustive()
    }
}
