//! The files of certificates and keys.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file is there already.
    #[error("{} is there already: nothing was changed; {instead}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do instead.
        instead: &'static str,
    },
    /// There is no CA in the directory.
    #[error("read {}: the CA is made by `cloudkv-node certs init`", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The CA's key is none.
    #[error("{} holds no private key in PEM form", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why it can't be read.
        #[source]
        source: rcgen::Error,
    },
    /// The CA's certificate isn't that of its key.
    #[error("the certificate that {} signed isn't valid for {}", key.display(), ca.display())]
    OtherAuthority {
        /// The CA's key.
        key: PathBuf,
        /// Its certificate.
        ca: PathBuf,
    },
    /// It can't be made.
    #[error("make a certificate")]
    Make(#[source] rcgen::Error),
    /// A file can't be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What becomes of files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// They stay, and nothing is made.
    Refuse,
    /// They are replaced, each in one step.
    Replace,
}

/// A certificate's file and its key's.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
    instead: &'static str,
}

impl Pair {
    /// Those of a directory's CA.
    pub fn authority(dir: &Path) -> Self {
        Self {
            certificate: dir.join("ca.pem"),
            key: dir.join("ca.key"),
            instead: "give another --dir for another CA",
        }
    }

    /// Those of a node or a router.
    pub fn named(dir: &Path, name: &str) -> Self {
        Self {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
            instead: "give --renew to replace it",
        }
    }

    /// Those in a node's or a router's own folder, named as in a secret of Kubernetes.
    pub fn secret(folder: &Path) -> Self {
        Self {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            instead: "remove it",
        }
    }

    /// Fails if a file is there that must not be.
    pub fn check(&self, existing: Existing) -> Result<(), CertsError> {
        let paths = [&self.certificate, &self.key];
        match paths.into_iter().find(|path| path.exists()) {
            Some(path) if existing == Existing::Refuse => Err(CertsError::Exists {
                path: path.clone(),
                instead: self.instead,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Writes both. A node that reads between the two sees that they don't go together, and takes
    /// them a moment later.
    pub fn write(
        &self,
        certificate: &str,
        key: &str,
        existing: Existing,
    ) -> Result<(), CertsError> {
        write(&self.key, key, 0o600, existing)?;
        write(&self.certificate, certificate, 0o644, existing)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        write!(f, "{certificate} and {key}")
    }
}

/// Makes a directory, for its owner alone, if there is none.
pub(super) fn make_dir(dir: &Path) -> Result<(), CertsError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| CertsError::Write {
        path: dir.to_owned(),
        source,
    })
}

/// Replaces a file that everybody may read.
pub(super) fn write_public(path: &Path, text: &str) -> Result<(), CertsError> {
    write(path, text, 0o644, Existing::Replace)
}

fn write(path: &Path, text: &str, mode: u32, existing: Existing) -> Result<(), CertsError> {
    let target = match existing {
        Existing::Refuse => path.to_owned(),
        Existing::Replace => {
            let mut name = path.as_os_str().to_owned();
            name.push(".new");
            PathBuf::from(name)
        }
    };
    let write = || {
        if existing == Existing::Replace {
            remove_leftover(&target)?;
        }
        let mut file = open(&target, mode)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if existing == Existing::Replace {
            fs::rename(&target, path)?;
        }
        Ok(())
    };
    write().map_err(|source| CertsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// A new file: one that is there is never opened, whoever made it meanwhile.
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
