//! The commands of `cloudkv-node certs`.

use std::path::Path;

use super::files::{CertificateFiles, CertsError, OverwritePolicy};
use super::init::init;
use super::issue::{CertificateAuthority, CertificateRole};
use super::setup::setup;
use crate::config::{CertificateValidity, CertsArgs, CertsCommand};

/// Runs the command `certs`, and returns its output.
pub fn run(args: &CertsArgs) -> Result<String, CertsError> {
    let dir = &args.dir;
    match &args.command {
        CertsCommand::Init { days } => init(dir, *days),
        CertsCommand::Node { hosts, term } => {
            let report = issue(dir, CertificateRole::Node, hosts, *term)?;
            Ok(format!(
                "{report}Give the node three files: rpc_cert = \"{name}.pem\", rpc_key = \
                 \"{name}.key\", rpc_ca = \"ca.pem\". Its advertise_rpc has to have {}.\n",
                match hosts.as_slice() {
                    [only] => format!("the host {only}"),
                    several => format!("one of the hosts {}", several.join(", ")),
                },
                name = hosts.first().map_or("", String::as_str),
            ))
        }
        CertsCommand::Router { name, term } => {
            let report = issue(
                dir,
                CertificateRole::Router,
                std::slice::from_ref(name),
                *term,
            )?;
            Ok(format!(
                "{report}Give the router {name}.pem, {name}.key and ca.pem.\n"
            ))
        }
        CertsCommand::Setup {
            into,
            nodes,
            routers,
        } => setup(dir, into, nodes, routers),
    }
}

fn issue(
    dir: &Path,
    role: CertificateRole,
    names: &[String],
    term: CertificateValidity,
) -> Result<String, CertsError> {
    let first = names.first().map_or("", String::as_str);
    let files = CertificateFiles::named(dir, first);
    // The CA's own files are never replaced.
    let policy = if term.renew && first != "ca" {
        OverwritePolicy::Replace
    } else {
        OverwritePolicy::Refuse
    };
    files.check(policy)?;
    let authority = CertificateAuthority::open(&CertificateFiles::authority(dir))?;
    let issued = authority.issue(role, names, term.days)?;
    files.write(&issued.certificate, &issued.key, policy)?;
    Ok(format!(
        "Issued a certificate for {}, valid for {} days: {files}.\n",
        names.join(", "),
        term.days
    ))
}
