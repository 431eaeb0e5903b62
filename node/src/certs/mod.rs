//! `cloudkv-node certs`: a CA of one's own, and certificates for nodes and routers, for those who
//! have no CA yet. What is made is what the port for nodes asks for (`cloudkv_proto::tls`); any
//! other CA can make the same.
//!
//! Keys are written readable by their owner alone. Nothing is overwritten but with `--renew`.

mod files;
mod issue;
mod setup;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::config::{CertsArgs, CertsOrder, CertsTerm};
pub use files::CertsError;
use files::{Existing, Pair};
use issue::{Authority, Role};

/// Makes what is asked for; tells what was made, for people.
pub fn make(args: &CertsArgs) -> Result<String, CertsError> {
    let dir = &args.dir;
    match &args.order {
        CertsOrder::Init { days } => init(dir, *days),
        CertsOrder::Node { hosts, term } => {
            let made = issue(dir, Role::Node, hosts, *term)?;
            Ok(format!(
                "{made}Give the node three files: rpc_cert = \"{name}.pem\", rpc_key = \
                 \"{name}.key\", rpc_ca = \"ca.pem\". Its advertise_rpc has to have {}.\n",
                match hosts.as_slice() {
                    [only] => format!("the host {only}"),
                    several => format!("one of the hosts {}", several.join(", ")),
                },
                name = hosts.first().map_or("", String::as_str),
            ))
        }
        CertsOrder::Router { name, term } => {
            let made = issue(dir, Role::Router, std::slice::from_ref(name), *term)?;
            Ok(format!(
                "{made}Give the router {name}.pem, {name}.key and ca.pem.\n"
            ))
        }
        CertsOrder::Setup {
            into,
            nodes,
            routers,
        } => setup::setup(dir, into, nodes, routers),
    }
}

fn init(dir: &Path, days: u32) -> Result<String, CertsError> {
    let (pair, files) = (Pair::authority(dir), Existing::Refuse);
    pair.check(files)?;
    files::make_dir(dir)?;
    let made = Authority::create(days).map_err(CertsError::Make)?;
    pair.write(&made.certificate, &made.key, files)?;
    Ok(format!(
        "Made a CA, good for {days} days: {pair}.\nNodes and routers get ca.pem. Keep ca.key from \
         all of them: whoever has it can act as any node.\n"
    ))
}

fn issue(dir: &Path, role: Role, names: &[String], term: CertsTerm) -> Result<String, CertsError> {
    let first = names.first().map_or("", String::as_str);
    let pair = Pair::named(dir, first);
    // The CA's own files are never replaced.
    let existing = if term.renew && first != "ca" {
        Existing::Replace
    } else {
        Existing::Refuse
    };
    pair.check(existing)?;
    let authority = Authority::open(&Pair::authority(dir))?;
    let made = authority.issue(role, names, term.days)?;
    pair.write(&made.certificate, &made.key, existing)?;
    Ok(format!(
        "Made a certificate for {}, good for {} days: {pair}.\n",
        names.join(", "),
        term.days
    ))
}
