//! `certs setup`: creates all certificates that a cluster on one machine needs, before each of its
//! starts. Those that are still valid stay.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cloudkv_common::transport::tls::valid_until;

use super::files::{CertificateFiles, CertsError, OverwritePolicy, create_dir, write_public};
use super::init::init;
use super::issue::{CertificateAuthority, CertificateRole};
use crate::config::{CA_VALIDITY_DAYS, CERTIFICATE_VALIDITY_DAYS};

/// Remaining lifetime below which a certificate is renewed.
const RENEWAL_WINDOW: Duration = Duration::from_secs(30 * 86_400);

/// Creates the CA and the certificates that are missing or expire soon, and returns a report.
pub(super) fn setup(
    dir: &Path,
    into: &Path,
    nodes: &[String],
    routers: &[String],
) -> Result<String, CertsError> {
    let ca_files = CertificateFiles::authority(dir);
    let mut report = String::new();
    if !ca_files.certificate.exists() && !ca_files.key.exists() {
        report = init(dir, CA_VALIDITY_DAYS)?;
    }
    let authority = CertificateAuthority::open(&ca_files)?;
    let nodes = nodes.iter().map(|name| (CertificateRole::Node, name));
    let routers = routers.iter().map(|name| (CertificateRole::Router, name));
    for (role, name) in nodes.chain(routers) {
        report += &ensure_certificate(&authority, role, name, &into.join(name))?;
    }
    Ok(report)
}

/// Ensures that a folder has a certificate that doesn't expire soon.
fn ensure_certificate(
    authority: &CertificateAuthority,
    role: CertificateRole,
    name: &str,
    folder: &Path,
) -> Result<String, CertsError> {
    let files = CertificateFiles::secret(folder);
    if is_valid(&files, authority.certificate()) {
        return Ok(format!("{files} are still valid.\n"));
    }
    create_dir(folder)?;
    let issued = authority.issue(role, &[name.to_owned()], CERTIFICATE_VALIDITY_DAYS)?;
    write_public(&folder.join("ca.crt"), authority.certificate())?;
    files.write(&issued.certificate, &issued.key, OverwritePolicy::Replace)?;
    Ok(format!("Created {files}.\n"))
}

/// Returns whether a certificate was signed by `ca` and doesn't expire soon.
fn is_valid(files: &CertificateFiles, ca: &str) -> bool {
    let certificate = fs::read_to_string(&files.certificate);
    let expiry = certificate.ok().and_then(|pem| valid_until(&pem, ca));
    files.key.exists() && expiry.is_some_and(|expiry| expiry > SystemTime::now() + RENEWAL_WINDOW)
}
