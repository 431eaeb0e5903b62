//! Certificates in use, which are reloaded while the program runs.
//!
//! Existing connections keep the certificates that they began with; new ones use the newest valid
//! files. Invalid files change nothing; they are logged once, and reported as stale until they are
//! replaced.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::files::{Material, TlsError, TlsFiles};
use super::peer::Peer;

/// Interval at which the files are checked for changes.
const LOOK: Duration = Duration::from_secs(2);
/// Minimum interval of log lines about refused connections.
const TELL: Duration = Duration::from_secs(10);

/// Role of a certificate's holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
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
    holder: Holder,
    current: ArcSwap<Material>,
    stale: AtomicBool,
    strangers: AtomicU64,
    /// Time of the last log line about a refused connection, in milliseconds since 1970.
    told: AtomicU64,
}

/// Modification times, sizes and inodes of the files, by which changes are detected.
pub(super) type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// Fails if they can't be used, or don't fit the role.
    pub fn open(files: TlsFiles, role: Holder) -> Result<Arc<Self>, TlsError> {
        let material = load(&files, &role)?;
        Ok(Arc::new(Self {
            files,
            holder: role,
            current: ArcSwap::from_pointee(material),
            stale: AtomicBool::new(false),
            strangers: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }))
    }

    /// Reloads the files when they change, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.stamp();
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            let this = self.clone();
            let reloaded = tokio::task::spawn_blocking(move || this.look(seen)).await;
            // It can only fail when the runtime ends.
            let Ok(stamps) = reloaded else { return };
            seen = stamps;
        }
    }

    /// Reloads the files if their stamps aren't those that were `seen`; returns the current ones.
    pub(super) fn look(&self, seen: Stamp) -> Stamp {
        // Taken before the files are read: a change meanwhile is detected the next time.
        let stamps = self.stamp();
        if stamps == seen {
            return stamps;
        }
        match load(&self.files, &self.holder) {
            Ok(material) => {
                self.current.store(Arc::new(material));
                self.stale.store(false, Ordering::Relaxed);
                tracing::info!(days_left = self.days_left(), "certificates reloaded");
            }
            Err(error) => {
                self.stale.store(true, Ordering::Relaxed);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(
                    %error,
                    cause,
                    "reloading certificates failed, keeping the previous ones"
                );
            }
        }
        stamps
    }

    pub(super) fn stamp(&self) -> Stamp {
        let files = [&self.files.cert, &self.files.key, &self.files.ca];
        let stamps = files.map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        });
        stamps.to_vec()
    }

    /// Returns when the certificate in use expires.
    pub fn valid_until(&self) -> SystemTime {
        self.current.load().valid_until
    }

    fn days_left(&self) -> u64 {
        let left = self.valid_until().duration_since(SystemTime::now());
        left.map_or(0, |left| left.as_secs() / 86_400)
    }

    /// Returns whether there are newer files that can't be used.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Returns the number of connections refused since the start, since the other end showed no
    /// valid certificate.
    pub fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Counts a connection that was refused, and logs it at most at intervals.
    pub(super) fn refused(&self, from: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) {
        let refused = 1 + self.strangers.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let last = self.told.load(Ordering::Relaxed);
        let is_due = now.abs_diff(last) >= u64::try_from(TELL.as_millis()).unwrap_or(u64::MAX);
        let swap = |last| {
            let order = Ordering::Relaxed;
            self.told.compare_exchange(last, now, order, order).is_ok()
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

fn load(files: &TlsFiles, role: &Holder) -> Result<Material, TlsError> {
    let material = Material::load(files)?;
    fits(&material.me, role).map_err(|reason| TlsError::Unfit {
        cert: files.cert.clone(),
        reason,
    })?;
    Ok(material)
}

fn fits(holder: &Peer, role: &Holder) -> Result<(), String> {
    match role {
        Holder::Node { .. } if !holder.is_node() => Err(
            "is not a node's: it lacks the extended key usage serverAuth; make one with \
             `cloudkv-node certs node`"
                .to_owned(),
        ),
        Holder::Node { host } if !holder.names(host) => Err(format!(
            "names {}, but other nodes reach this one at {host}: make one for {host}, or set \
             advertise_rpc to a host that it names",
            holder.described()
        )),
        Holder::Router if holder.is_node() => Err(
            "is a node's, and a router must not be able to act as one: make one with \
             `cloudkv-node certs router`"
                .to_owned(),
        ),
        Holder::Node { .. } | Holder::Router => Ok(()),
    }
}
