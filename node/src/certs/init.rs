//! `certs init`: creates a CA.

use std::path::Path;

use super::files::{CertificateFiles, CertsError, OverwritePolicy, create_dir};
use super::issue::CertificateAuthority;

/// Creates a CA that is valid for so many days, and returns a report.
pub(super) fn init(dir: &Path, days: u32) -> Result<String, CertsError> {
    let (files, policy) = (CertificateFiles::authority(dir), OverwritePolicy::Refuse);
    files.check(policy)?;
    create_dir(dir)?;
    let ca = CertificateAuthority::create(days).map_err(CertsError::Issue)?;
    files.write(&ca.certificate, &ca.key, policy)?;
    Ok(format!(
        "Created a CA, valid for {days} days: {files}.\nGive ca.pem to nodes and routers. Keep \
         ca.key from all of them: whoever has it can act as any node.\n"
    ))
}
