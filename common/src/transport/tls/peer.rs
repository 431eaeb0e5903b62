//! Identity of the other end, by its certificate.
//!
//! The holder of a certificate is identified by the hosts that it names. A node's certificate may
//! be used to serve, a router's only to call; that distinguishes them, and no router's certificate
//! can be shown in place of a node's.
//!
//! Wildcards are refused: a certificate for `*.example.com` would let every node act as any other.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::diagnosis::bare_name;

/// `serverAuth` of RFC 5280, section 4.2.1.12: 1.3.6.1.5.5.7.3.1, as DER holds it.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// Address that no certificate names.
const UNUSED_ADDRESS: &str = "0.0.0.0";

/// Identity of the calling end of a connection.
#[derive(Clone, Debug)]
pub enum PeerIdentity {
    /// Any program of this machine, from which alone the port is reached: there are no
    /// certificates.
    Local,
    /// Holder of a certificate of the CA.
    Certified(CertificateHolder),
}

/// Holder of a certificate. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CertificateHolder {
    leaf: Arc<CertificateDer<'static>>,
    is_node: bool,
    hosts: Arc<str>,
}

impl CertificateHolder {
    /// Reads the holder of the first certificate of a chain, whose signatures were checked
    /// elsewhere.
    ///
    /// # Errors
    /// Fails if it can't identify a holder; the text is the end of "the certificate ...".
    pub(super) fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let leaf = chain.first().ok_or("is missing")?.clone().into_owned();
        let parsed = webpki::EndEntityCert::try_from(&leaf)
            .map_err(|error| format!("can't be read: {error}"))?;
        if let Some(wildcard) = parsed.valid_dns_names().find(|name| name.contains('*')) {
            return Err(format!(
                "is for {wildcard}: give each node a certificate with its own names"
            ));
        }
        let is_node = may_serve(&parsed);
        let names = hosts_of(&parsed);
        let names = if names.is_empty() {
            "no host".to_owned()
        } else {
            names.join(", ")
        };
        Ok(Self {
            leaf: Arc::new(leaf),
            is_node,
            hosts: names.into(),
        })
    }

    /// Returns whether it is a node: its certificate may be used to serve.
    pub fn is_node(&self) -> bool {
        self.is_node
    }

    /// Returns whether the certificate names a host: a DNS name or an IP address.
    pub fn names_host(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else {
            return false;
        };
        webpki::EndEntityCert::try_from(&*self.leaf)
            .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    }

    /// Returns the DNS names and IP addresses of the certificate, for messages.
    pub fn hosts(&self) -> &str {
        &self.hosts
    }
}

/// Returns the DNS names and IP addresses of a certificate.
fn hosts_of(leaf: &webpki::EndEntityCert<'_>) -> Vec<String> {
    // Only the error of a check for another address lists IP addresses.
    let checked = ServerName::try_from(UNUSED_ADDRESS)
        .map(|address| leaf.verify_is_valid_for_subject_name(&address));
    match checked {
        Ok(Err(webpki::Error::CertNotValidForName(context))) => {
            let names = context.presented.iter().map(String::as_str);
            let is_host = |name: &&str| name.starts_with("DnsName") || name.starts_with("IpAddr");
            names
                .filter(is_host)
                .map(|name| bare_name(name).to_owned())
                .collect()
        }
        Ok(_) | Err(_) => leaf.valid_dns_names().map(str::to_owned).collect(),
    }
}

/// Returns whether `serverAuth` is among the extended key usages. Chain and time are checked by the
/// handshake; here the usage is checked before the issuer.
fn may_serve(leaf: &webpki::EndEntityCert<'_>) -> bool {
    let usage = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[],
        &[],
        UnixTime::now(),
        webpki::KeyUsage::required(SERVER_AUTH),
        None,
        None,
    );
    // Without any CA, a certificate of the right usage fails as one of an unknown issuer.
    matches!(usage, Err(webpki::Error::UnknownIssuer))
}
