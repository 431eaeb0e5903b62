//! Certificates: read when the router starts, and again when their files change.
//!
//! Invariant: what can't be read or doesn't fit together changes nothing: the certificate of before
//! stays in use, and the log says why.

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

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or isn't PEM.
    #[error("read {setting} {}: {source}", path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// Certificate and key aren't fit for use, or not for each other.
    #[error("use tls_cert and tls_key: {0}")]
    Unfit(#[from] rustls::Error),
}

/// Where a certificate and its key are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate and those that sign it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What tells that a file is another one.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Files {
    /// Reads both.
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

/// A certificate in use.
pub struct Certificate {
    files: Files,
    used: Stamp,
    settings: TlsSettings,
}

impl Certificate {
    /// Reads a certificate and its key.
    pub fn open(files: Files) -> Result<Self, TlsError> {
        let used = files.stamp();
        let settings = Arc::new(ArcSwap::from_pointee(files.load()?));
        Ok(Self {
            files,
            used,
            settings,
        })
    }

    /// What connections are encrypted with.
    pub fn settings(&self) -> TlsSettings {
        self.settings.clone()
    }

    /// Takes files that change into use until `stop`.
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
        let now = self.files.stamp();
        if now == self.used {
            return;
        }
        self.used = now;
        match self.files.load() {
            Ok(config) => {
                self.settings.store(Arc::new(config));
                tracing::info!("the certificate was read again");
            }
            // The two files are written one after the other: the next look sees both.
            Err(error) => tracing::warn!(%error, "the certificate of before stays in use"),
        }
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}
