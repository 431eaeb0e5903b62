//! Files of certificates and keys.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Error of the command `certs`.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file exists already.
    #[error("write {}: the file exists, nothing was changed: {instead}", path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
        /// Advice for the operator.
        instead: &'static str,
    },
    /// There is no CA in the directory.
    #[error(
        "read {}: create the CA with `cloudkv-node certs init --dir {}`, or give the directory of \
         one with --dir",
        path.display(),
        path.parent().unwrap_or(Path::new(".")).display()
    )]
    NoAuthority {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file of the CA's key holds no private key.
    #[error("read {}: the file holds no private key in PEM form", path.display())]
    InvalidKey {
        /// The file.
        path: PathBuf,
        /// Error of parsing the key.
        #[source]
        source: rcgen::Error,
    },
    /// The CA's certificate is expired, or doesn't belong to its key.
    #[error(
        "issue a certificate: one signed with {} isn't valid for {}: create another CA",
        key.display(),
        ca.display()
    )]
    KeyMismatch {
        /// File of the CA's key.
        key: PathBuf,
        /// File of the CA's certificate.
        ca: PathBuf,
    },
    /// Generating or signing a certificate failed.
    #[error("issue a certificate")]
    Issue(#[source] rcgen::Error),
    /// A file can't be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// Policy for files that exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverwritePolicy {
    /// They stay, and the command fails.
    Refuse,
    /// They are replaced, each atomically.
    Replace,
}

/// Paths of a certificate's file and of its key's.
#[derive(Clone, Debug)]
pub(super) struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    advice: &'static str,
}

impl CertificateFiles {
    /// Returns the files of a directory's CA.
    pub(super) fn authority(dir: &Path) -> Self {
        Self {
            certificate: dir.join("ca.pem"),
            key: dir.join("ca.key"),
            advice: "give another --dir for another CA",
        }
    }

    /// Returns the files of a node or a router.
    pub(super) fn named(dir: &Path, name: &str) -> Self {
        Self {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
            advice: "give --renew to replace it",
        }
    }

    /// Returns the files in a node's or a router's own folder, named as in a Kubernetes TLS secret.
    pub(super) fn secret(folder: &Path) -> Self {
        Self {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            advice: "remove it",
        }
    }

    /// Fails if a file exists that must not be replaced.
    pub(super) fn check(&self, policy: OverwritePolicy) -> Result<(), CertsError> {
        let paths = [&self.certificate, &self.key];
        match paths.into_iter().find(|path| path.exists()) {
            Some(path) if policy == OverwritePolicy::Refuse => Err(CertsError::AlreadyExists {
                path: path.clone(),
                instead: self.advice,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Writes both files. A node that reads between the two detects that they don't match, and
    /// reads them again a moment later.
    pub(super) fn write(
        &self,
        certificate: &str,
        key: &str,
        policy: OverwritePolicy,
    ) -> Result<(), CertsError> {
        write(&self.key, key, 0o600, policy)?;
        write(&self.certificate, certificate, 0o644, policy)
    }
}

impl fmt::Display for CertificateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        write!(f, "{certificate} and {key}")
    }
}

/// Creates a directory that only its owner can access, if there is none.
pub(super) fn create_dir(dir: &Path) -> Result<(), CertsError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|source| CertsError::Write {
        path: dir.to_owned(),
        source,
    })
}

/// Writes or replaces a file that all users may read.
pub(super) fn write_public(path: &Path, text: &str) -> Result<(), CertsError> {
    write(path, text, 0o644, OverwritePolicy::Replace)
}

fn write(path: &Path, text: &str, mode: u32, policy: OverwritePolicy) -> Result<(), CertsError> {
    let target = match policy {
        OverwritePolicy::Refuse => path.to_owned(),
        OverwritePolicy::Replace => {
            let mut name = path.as_os_str().to_owned();
            name.push(".new");
            PathBuf::from(name)
        }
    };
    let write = || {
        if policy == OverwritePolicy::Replace {
            remove_leftover(&target)?;
        }
        let mut file = open(&target, mode)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if policy == OverwritePolicy::Replace {
            fs::rename(&target, path)?;
        }
        Ok(())
    };
    write().map_err(|source| CertsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Creates a new file. An existing one is never opened, even if it was created meanwhile.
fn open(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).open(path)
}

fn remove_leftover(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
