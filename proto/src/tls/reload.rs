//! The certificates in use, and newer ones taken while the program runs.
//!
//! Connections that are there keep what they began with; new ones use the newest files that are
//! right. Files that aren't change nothing, and that is said once and shown until it is mended.

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

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Strangers are told of in the log at most this often.
const TELL: Duration = Duration::from_secs(10);

/// Whose certificate it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A node that others reach at this host.
    Node {
        /// A DNS name or an IP address.
        host: String,
    },
    /// A router.
    Router,
}

/// The certificates in use.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    holder: Holder,
    current: ArcSwap<Material>,
    stale: AtomicBool,
    strangers: AtomicU64,
    /// Milliseconds since 1970 when strangers were last told of.
    told: AtomicU64,
}

/// What tells that files have changed.
pub(super) type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

impl Tls {
    /// Reads the certificates, which must be right and fit their holder.
    pub fn open(files: TlsFiles, holder: Holder) -> Result<Arc<Self>, TlsError> {
        let material = load(&files, &holder)?;
        Ok(Arc::new(Self {
            files,
            holder,
            current: ArcSwap::from_pointee(material),
            stale: AtomicBool::new(false),
            strangers: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }))
    }

    /// Takes the files anew when they change, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.stamp();
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || this.look(seen)).await;
            // It can only fail as the runtime ends.
            let Ok(stamp) = looked else { return };
            seen = stamp;
        }
    }

    /// Takes the files if they aren't those that were `seen`; tells which there are now.
    pub(super) fn look(&self, seen: Stamp) -> Stamp {
        // Before they are read: a change that comes meanwhile is seen the next time.
        let stamp = self.stamp();
        if stamp == seen {
            return stamp;
        }
        match load(&self.files, &self.holder) {
            Ok(material) => {
                self.current.store(Arc::new(material));
                self.stale.store(false, Ordering::Relaxed);
                tracing::info!(days_left = self.days_left(), "new certificates are in use");
            }
            Err(error) => {
                self.stale.store(true, Ordering::Relaxed);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(
                    %error,
                    cause,
                    "new certificates can't be used: the ones before stay in use"
                );
            }
        }
        stamp
    }

    pub(super) fn stamp(&self) -> Stamp {
        let files = [&self.files.cert, &self.files.key, &self.files.ca];
        let stamp = files.map(|path| {
            let found = fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len(), found.ino()))
        });
        stamp.to_vec()
    }

    /// When the certificate in use expires.
    pub fn valid_until(&self) -> SystemTime {
        self.current.load().valid_until
    }

    fn days_left(&self) -> u64 {
        let left = self.valid_until().duration_since(SystemTime::now());
        left.map_or(0, |left| left.as_secs() / 86_400)
    }

    /// Whether there are newer files that can't be used.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Connections refused since the start, since the other end showed no certificate that counts.
    pub fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Counts a connection that was refused, and says so now and then.
    pub(super) fn refused(&self, from: &dyn std::fmt::Display, why: &dyn std::fmt::Display) {
        let strangers = 1 + self.strangers.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let told = self.told.load(Ordering::Relaxed);
        let due = now.abs_diff(told) >= u64::try_from(TELL.as_millis()).unwrap_or(u64::MAX);
        let swap = |told| {
            let order = Ordering::Relaxed;
            self.told.compare_exchange(told, now, order, order).is_ok()
        };
        if due && swap(told) {
            tracing::warn!(%from, %why, strangers, "refused a connection to the port for nodes");
        }
    }

    /// Where the CA's certificates are, for messages.
    pub(super) fn ca_path(&self) -> String {
        self.files.ca.display().to_string()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load().server.clone())
    }

    pub(super) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.current.load().client.clone())
    }

    /// What takes connections over which routers pass on users' requests by HTTP: who dials shows a
    /// certificate, as everywhere.
    pub fn http_acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load().http_server.clone())
    }

    pub(super) fn http_connector(&self) -> TlsConnector {
        TlsConnector::from(self.current.load().http_client.clone())
    }
}

fn load(files: &TlsFiles, holder: &Holder) -> Result<Material, TlsError> {
    let material = Material::load(files)?;
    fits(&material.me, holder).map_err(|reason| TlsError::Unfit {
        cert: files.cert.clone(),
        reason,
    })?;
    Ok(material)
}

fn fits(me: &Peer, holder: &Holder) -> Result<(), String> {
    match holder {
        Holder::Node { .. } if !me.is_node() => Err(
            "is not a node's: it lacks the extended key usage serverAuth; make one with \
             `cloudkv-node certs node`"
                .to_owned(),
        ),
        Holder::Node { host } if !me.names(host) => Err(format!(
            "names {}, but other nodes reach this one at {host}: make one for {host}, or set \
             advertise_rpc to a host that it names",
            me.described()
        )),
        Holder::Router if me.is_node() => Err(
            "is a node's, and a router must not be able to act as one: make one with \
             `cloudkv-node certs router`"
                .to_owned(),
        ),
        Holder::Node { .. } | Holder::Router => Ok(()),
    }
}
