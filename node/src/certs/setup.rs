//! All that a cluster on one machine needs, made before it starts, however often it does.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cloudkv_proto::tls::valid_until;

use super::files::{CertsError, Existing, Pair, make_dir, write_public};
use super::issue::{Authority, Role};
use crate::config::{CA_DAYS, CERTIFICATE_DAYS};

/// Certificates that expire sooner are renewed.
const RENEW: Duration = Duration::from_secs(30 * 86_400);

/// Makes what is missing; tells what was made.
pub(super) fn setup(
    dir: &Path,
    into: &Path,
    nodes: &[String],
    routers: &[String],
) -> Result<String, CertsError> {
    let pair = Pair::authority(dir);
    let mut told = String::new();
    if !pair.certificate.exists() && !pair.key.exists() {
        told = super::init(dir, CA_DAYS)?;
    }
    let authority = Authority::open(&pair)?;
    let nodes = nodes.iter().map(|name| (Role::Node, name));
    let routers = routers.iter().map(|name| (Role::Router, name));
    for (role, name) in nodes.chain(routers) {
        told += &provide(&authority, role, name, &into.join(name))?;
    }
    Ok(told)
}

/// A folder with a certificate that is good for a while.
fn provide(
    authority: &Authority,
    role: Role,
    name: &str,
    folder: &Path,
) -> Result<String, CertsError> {
    let pair = Pair::secret(folder);
    if is_good(&pair, authority.certificate()) {
        return Ok(format!("{pair} stay as they are.\n"));
    }
    make_dir(folder)?;
    let made = authority.issue(role, &[name.to_owned()], CERTIFICATE_DAYS)?;
    write_public(&folder.join("ca.crt"), authority.certificate())?;
    pair.write(&made.certificate, &made.key, Existing::Replace)?;
    Ok(format!("Made {pair}.\n"))
}

fn is_good(pair: &Pair, ca: &str) -> bool {
    let certificate = fs::read_to_string(&pair.certificate);
    let until = certificate.ok().and_then(|it| valid_until(&it, ca));
    pair.key.exists() && until.is_some_and(|until| until > SystemTime::now() + RENEW)
}
