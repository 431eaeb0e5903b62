//! Certificates in use, which are reloaded while the program runs.
//!
//! Existing connections keep the certificates that they began with; new ones use the newest valid
//! files. Invalid files change nothing; they are logged once, and reported as stale until they are
//! replaced.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::files::{TlsError, TlsFiles, TlsMaterial};
use super::peer::CertificateHolder;
use crate::file_watch::FileWatch;

/// Interval at which the files are checked for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum interval of log lines about refused connections.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Role of a certificate's holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsRole {
    /// Node that others reach at this host.
    Node {
        /// DNS name or IP address.
        host: String,
    },
    /// Router.
    Router,
}

/// Certificates in use.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    role: TlsRole,
    /// The files as they were before they were first read.
    watch: FileWatch,
    current: ArcSwap<TlsMaterial>,
    is_stale: AtomicBool,
    refused_connections: AtomicU64,
    /// Time of the last log line about a refused connection, in milliseconds since 1970.
    last_logged_ms: AtomicU64,
}

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// Fails if they can't be used, or don't fit the role.
    pub fn open(files: TlsFiles, role: TlsRole) -> Result<Arc<Self>, TlsError> {
        let watch = FileWatch::new([&files.cert, &files.key, &files.ca].map(PathBuf::clone));
        let material = load_material(&files, &role)?;
        Ok(Arc::new(Self {
            files,
            role,
            watch,
            current: ArcSwap::from_pointee(material),
            is_stale: AtomicBool::new(false),
            refused_connections: AtomicU64::new(0),
            last_logged_ms: AtomicU64::new(0),
        }))
    }

    /// Reloads the files when they change, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let watch = self.file_watch();
        let reload = move || self.reload();
        watch.run(RELOAD_INTERVAL, stop, reload).await;
    }

    /// Returns a watch of the files since they were first read.
    pub(super) fn file_watch(&self) -> FileWatch {
        self.watch.clone()
    }

    /// Reloads the files.
    pub(super) fn reload(&self) {
        match load_material(&self.files, &self.role) {
            Ok(material) => {
                self.current.store(Arc::new(material));
                self.is_stale.store(false, Ordering::Relaxed);
                tracing::info!(days_left = self.days_left(), "certificates reloaded");
            }
            Err(error) => {
                self.is_stale.store(true, Ordering::Relaxed);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(
                    %error,
                    cause,
                    "reloading certificates failed, keeping the previous ones"
                );
            }
        }
    }

    /// Returns when the certificate in use expires.
    pub fn valid_until(&self) -> SystemTime {
        self.current.load().valid_until
    }

    /// Returns the number of whole days until the certificate in use expires.
    pub fn days_left(&self) -> u64 {
        let left = self.valid_until().duration_since(SystemTime::now());
        left.map_or(0, |left| left.as_secs() / 86_400)
    }

    /// Returns whether there are newer files that can't be used.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Returns the number of connections refused since the start, since the other end showed no
    /// valid certificate.
    pub fn refused_connections(&self) -> u64 {
        self.refused_connections.load(Ordering::Relaxed)
    }

    /// Counts a connection that was refused, and logs it at most at intervals.
    pub(super) fn record_refused(
        &self,
        from: &dyn std::fmt::Display,
        reason: &dyn std::fmt::Display,
    ) {
        let refused = 1 + self.refused_connections.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let last = self.last_logged_ms.load(Ordering::Relaxed);
        let is_due = now.abs_diff(last)
            >= u64::try_from(REFUSAL_LOG_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let swap = |last| {
            let order = Ordering::Relaxed;
            self.last_logged_ms
                .compare_exchange(last, now, order, order)
                .is_ok()
        };
        if is_due && swap(last) {
            tracing::warn!(%from, %reason, refused, "connection to the rpc port refused");
        }
    }

    /// Returns the path of the CA's certificates, for messages.
    pub(super) fn ca_path(&self) -> String {
        self.files.ca.display().to_string()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load().server.clone())
    }

    pub(super) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.current.load().client.clone())
    }

    /// Returns the acceptor of connections over which routers forward users' requests as HTTP: the
    /// dialing end shows a certificate, as everywhere.
    pub fn http_acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load().http_server.clone())
    }

    pub(super) fn http_connector(&self) -> TlsConnector {
        TlsConnector::from(self.current.load().http_client.clone())
    }
}

fn load_material(files: &TlsFiles, role: &TlsRole) -> Result<TlsMaterial, TlsError> {
    let material = TlsMaterial::load(files)?;
    check_role(&material.identity, role).map_err(|reason| TlsError::Unfit {
        cert: files.cert.clone(),
        reason,
    })?;
    Ok(material)
}

fn check_role(holder: &CertificateHolder, role: &TlsRole) -> Result<(), String> {
    match role {
        TlsRole::Node { .. } if !holder.is_node() => Err(
            "is not a node's: it lacks the extended key usage serverAuth; make one with \
             `cloudkv-node certs node`"
                .to_owned(),
        ),
        TlsRole::Node { host } if !holder.names_host(host) => Err(format!(
            "names {}, but other nodes reach this one at {host}: make one for {host}, or set \
             advertise_rpc to a host that it names",
            holder.hosts()
        )),
        TlsRole::Router if holder.is_node() => Err(
            "is a node's, and a router must not be able to act as one: make one with \
             `cloudkv-node certs router`"
                .to_owned(),
        ),
        TlsRole::Node { .. } | TlsRole::Router => Ok(()),
    }
}
