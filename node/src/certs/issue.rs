//! The CA, and the certificates that it signs.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use cloudkv_common::transport::tls::valid_until;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};

use super::files::{CertificateFiles, CertsError};

/// Common name of the CA. All CAs created here share it: the key identifies which one has signed.
const CA_NAME: &str = "CloudKV CA";
/// Time by which certificates are backdated, since clocks of other machines may be behind.
const CLOCK_SKEW_ALLOWANCE: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Role of a certificate's holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificateRole {
    /// A node, which is a server and a client.
    Node,
    /// A router, which is a client only.
    Router,
}

/// A certificate and its key, in PEM form.
pub(super) struct IssuedCertificate {
    pub certificate: String,
    pub key: String,
}

/// A CA with its signing key.
pub(super) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    files: CertificateFiles,
    certificate: String,
}

impl CertificateAuthority {
    /// Creates the certificate and key of a new CA.
    pub(super) fn create(days: u32) -> Result<IssuedCertificate, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = ca_params();
        set_validity(&mut params, days);
        params.serial_number = Some(random_serial()?);
        let certificate = params.self_signed(&key)?;
        Ok(IssuedCertificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Opens the CA of a directory.
    pub(super) fn open(files: &CertificateFiles) -> Result<Self, CertsError> {
        let read = |path: &std::path::Path| {
            fs::read_to_string(path).map_err(|source| CertsError::NoAuthority {
                path: path.to_owned(),
                source,
            })
        };
        let key = KeyPair::from_pem(&read(&files.key)?);
        let key = key.map_err(|source| CertsError::InvalidKey {
            path: files.key.clone(),
            source,
        })?;
        Ok(Self {
            issuer: Issuer::new(ca_params(), key),
            certificate: read(&files.certificate)?,
            files: files.clone(),
        })
    }

    /// Returns the CA's certificate, in PEM form.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate for these hosts.
    pub(super) fn issue(
        &self,
        role: CertificateRole,
        names: &[String],
        days: u32,
    ) -> Result<IssuedCertificate, CertsError> {
        let sign = || {
            let key = KeyPair::generate()?;
            let certificate =
                certificate_params(role, names, days)?.signed_by(&key, &self.issuer)?;
            Ok(IssuedCertificate {
                certificate: certificate.pem(),
                key: key.serialize_pem(),
            })
        };
        let issued: IssuedCertificate = sign().map_err(CertsError::Issue)?;
        // The CA's certificate may be of another key, or have expired.
        if valid_until(&issued.certificate, &self.certificate).is_none() {
            return Err(CertsError::KeyMismatch {
                key: self.files.key.clone(),
                ca: self.files.certificate.clone(),
            });
        }
        Ok(issued)
    }
}

/// Returns the parameters that all CAs created here share.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn certificate_params(
    role: CertificateRole,
    names: &[String],
    days: u32,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let first = names.first().map_or("", String::as_str);
    params.distinguished_name.push(DnType::CommonName, first);
    params.subject_alt_names = names
        .iter()
        .map(|name| subject_alt_name(name))
        .collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match role {
        CertificateRole::Node => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
        CertificateRole::Router => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial()?);
    set_validity(&mut params, days);
    Ok(params)
}

fn subject_alt_name(name: &str) -> Result<SanType, rcgen::Error> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    }
}

fn set_validity(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = date_time_ymd(1970, 1, 1) + now.unwrap_or_default();
    params.not_before = now - CLOCK_SKEW_ALLOWANCE;
    params.not_after = now + days * DAY;
}

/// Returns a random serial number, since one must not occur twice.
fn random_serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive, as RFC 5280 requires.
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}
