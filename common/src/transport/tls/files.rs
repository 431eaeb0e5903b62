//! PEM files of a node or a router: reading, validation and rustls configurations.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

use super::peer::CertificateHolder;

/// ALPN protocol of gRPC: HTTP/2.
const GRPC_ALPN: &[u8] = b"h2";
/// ALPN protocol in which routers forward users' requests: HTTP/1.1.
const HTTP_ALPN: &[u8] = b"http/1.1";

/// Paths of a node's or a router's PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate, followed by the intermediate ones between it and the CA, if there are any.
    pub cert: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// Certificates of the CAs that must have issued the others' certificates.
    pub ca: PathBuf,
}

impl TlsFiles {
    /// Returns the files of these settings; `None` unless all three are given.
    pub fn from_settings(
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
    ) -> Option<Self> {
        Some(Self {
            cert: cert?,
            key: key?,
            ca: ca?,
        })
    }
}

/// Error of certificates that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// File that can't be read.
    #[error("read {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// File with other contents.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// Path of the file.
        path: PathBuf,
        /// Expected contents.
        what: &'static str,
        /// Error of the parser.
        #[source]
        source: Option<pem::Error>,
    },
    /// Certificate and key that don't match, or can't be used.
    #[error(
        "the certificate in {} and the key in {} can't be used together",
        cert.display(),
        key.display()
    )]
    Pair {
        /// Path of the certificate.
        cert: PathBuf,
        /// Path of the key.
        key: PathBuf,
        /// Error of rustls.
        #[source]
        source: rustls::Error,
    },
    /// CA file that can't be used.
    #[error("the certificates in {} can't be used as those of a CA: {reason}", path.display())]
    Ca {
        /// Path of the file.
        path: PathBuf,
        /// Reason why not.
        reason: String,
    },
    /// Certificate that the CA hasn't issued, or that has expired.
    #[error(
        "the certificate in {} is not valid for the CA in {}: {reason}",
        cert.display(),
        ca.display()
    )]
    Chain {
        /// Path of the certificate.
        cert: PathBuf,
        /// Path of the CA's certificates.
        ca: PathBuf,
        /// Error of the validation.
        reason: webpki::Error,
    },
    /// Certificate that doesn't fit its holder.
    #[error("the certificate in {} {reason}", cert.display())]
    Unfit {
        /// Path of the certificate.
        cert: PathBuf,
        /// Reason, as the end of "the certificate ...".
        reason: String,
    },
}

/// Validated contents of the files, as configurations for connections.
#[derive(Debug)]
pub(super) struct TlsMaterial {
    /// Configuration of gRPC servers.
    pub server: Arc<ServerConfig>,
    /// Configuration of gRPC clients.
    pub client: Arc<ClientConfig>,
    /// Configuration of servers for users' requests that routers forward.
    pub http_server: Arc<ServerConfig>,
    /// Configuration of clients for users' requests that routers forward.
    pub http_client: Arc<ClientConfig>,
    /// Holder of the certificate.
    pub identity: CertificateHolder,
    /// Expiry of the certificate, or of the first of its chain to expire.
    pub valid_until: SystemTime,
}

impl TlsMaterial {
    /// Reads and validates the files. The certificate must be of the CA, valid now, and match its
    /// key.
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = load_certificates(&files.cert)?;
        let roots = load_roots(&files.ca)?;
        let key = PrivateKeyDer::from_pem_slice(&read_file(&files.key)?).map_err(|source| {
            let (path, source) = (files.key.clone(), Some(source));
            let what = "private key";
            TlsError::Pem { path, what, source }
        })?;
        let valid_until = check_chain(&chain, &roots).map_err(|reason| TlsError::Chain {
            cert: files.cert.clone(),
            ca: files.ca.clone(),
            reason,
        })?;
        let me = CertificateHolder::from_chain(&chain).map_err(|reason| TlsError::Unfit {
            cert: files.cert.clone(),
            reason,
        })?;
        let provider = Arc::new(ring::default_provider());
        let client = client_config(files, &provider, &chain, &key, &roots)?;
        let server = server_config(files, &provider, chain, key, roots)?;
        let (mut http_server, mut http_client) = (server.clone(), client.clone());
        http_server.alpn_protocols = vec![HTTP_ALPN.to_vec()];
        http_client.alpn_protocols = vec![HTTP_ALPN.to_vec()];
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            http_server: Arc::new(http_server),
            http_client: Arc::new(http_client),
            identity: me,
            valid_until,
        })
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    parse_certificates(&read_file(path)?).map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        what: "certificate",
        source,
    })
}

/// Parses at least one certificate.
fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Option<pem::Error>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(Some)?;
    if all.is_empty() { Err(None) } else { Ok(all) }
}

fn load_roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let roots = root_store(load_certificates(path)?).map_err(|error| TlsError::Ca {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Arc::new(roots))
}

fn root_store(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// Returns until when a certificate is valid for a CA, both in PEM form; `None`: it isn't valid
/// now.
pub fn valid_until(certificate: &str, ca: &str) -> Option<SystemTime> {
    let roots = root_store(parse_certificates(ca.as_bytes()).ok()?).ok()?;
    let chain = parse_certificates(certificate.as_bytes()).ok()?;
    check_chain(&chain, &roots).ok()
}

/// Validates a certificate chain, and returns until when it is valid.
fn check_chain(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
) -> Result<SystemTime, webpki::Error> {
    let (first, others) = chain.split_first().ok_or(webpki::Error::BadDer)?;
    let leaf = webpki::EndEntityCert::try_from(first)?;
    let verify = |time| {
        let path = leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &roots.roots,
            others,
            time,
            webpki::KeyUsage::client_auth(),
            None,
            None,
        );
        path.map(|_| ())
    };
    verify(UnixTime::now())?;
    // Any certificate of the chain may be the first to expire: each error gives its expiry.
    let mut until = UnixTime::since_unix_epoch(Duration::from_secs(MAX_EXPIRY_SECS));
    for _ in 0..=chain.len() {
        match verify(until) {
            Err(webpki::Error::CertExpired { not_after, .. }) => until = not_after,
            Ok(()) | Err(_) => break,
        }
    }
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(until.as_secs()))
}

/// End of the year 9999, after which no certificate is valid, in seconds since 1970.
const MAX_EXPIRY_SECS: u64 = 253_402_300_800;

fn server_config(
    files: &TlsFiles,
    provider: &Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
    let verifier = verifier.map_err(|error| TlsError::Ca {
        path: files.ca.clone(),
        reason: error.to_string(),
    })?;
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map(|config| config.with_client_cert_verifier(verifier))
        .and_then(|config| config.with_single_cert(chain, key));
    let mut config = config.map_err(pair_error(files))?;
    config.alpn_protocols = vec![GRPC_ALPN.to_vec()];
    // No resumption: every connection shows its certificate, so that an expired one is detected.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    files: &TlsFiles,
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    roots: &Arc<RootCertStore>,
) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map(|config| config.with_root_certificates(roots.clone()))
        .and_then(|config| config.with_client_auth_cert(chain.to_vec(), key.clone_key()));
    let mut config = config.map_err(pair_error(files))?;
    config.alpn_protocols = vec![GRPC_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn pair_error(files: &TlsFiles) -> impl Fn(rustls::Error) -> TlsError {
    |source| TlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    }
}
