//! The certificate for users: loaded when the router starts, and reloaded when its files change.
//!
//! Invariant: files that can't be read or don't match have no effect: the previous certificate
//! stays in use, and the log gives the reason.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cloudkv_common::file_watch::FileWatch;
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
}

fn file_error(setting: &'static str, path: &Path, source: pem::Error) -> CertificateError {
    CertificateError::File {
        setting,
        path: path.to_owned(),
        source,
    }
}

/// A certificate in use, which is reloaded when its files change.
pub(crate) struct ReloadingCertificate {
    files: CertificateFiles,
    watch: FileWatch,
    settings: SharedTlsConfig,
}

impl ReloadingCertificate {
    /// Loads a certificate and its key.
    pub(crate) fn open(files: CertificateFiles) -> Result<Self, CertificateError> {
        let watch = FileWatch::new([&files.certificate, &files.key].map(PathBuf::clone));
        let settings = Arc::new(ArcSwap::from_pointee(files.load()?));
        Ok(Self {
            files,
            watch,
            settings,
        })
    }

    /// TLS settings for new connections.
    pub(crate) fn settings(&self) -> SharedTlsConfig {
        self.settings.clone()
    }

    /// Reloads the files when they change, until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let (files, settings) = (self.files, self.settings);
        let reload = move || reload(&files, &settings);
        self.watch.run(RELOAD_INTERVAL, stop, reload).await;
    }
}

fn reload(files: &CertificateFiles, settings: &SharedTlsConfig) {
    match files.load() {
        Ok(config) => {
            settings.store(Arc::new(config));
            tracing::info!("certificate reloaded");
        }
        // The two files are written one after the other: the next check sees both.
        Err(error) => {
            tracing::warn!(%error, "certificate reload failed, the previous one stays in use");
        }
    }
}

impl std::fmt::Debug for ReloadingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadingCertificate")
            .finish_non_exhaustive()
    }
}
