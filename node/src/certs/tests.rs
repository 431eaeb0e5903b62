//! The certificates are accepted by the rpc port.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cloudkv_proto::tls::{Holder, Tls, TlsFiles};

use super::make;
use crate::config::{CertsArgs, CertsOrder, CertsTerm};

fn order(dir: &Path, order: CertsOrder) -> Result<String, String> {
    let args = CertsArgs {
        dir: dir.to_owned(),
        order,
    };
    make(&args).map_err(|error| error.to_string())
}

fn term(renew: bool) -> CertsTerm {
    CertsTerm { days: 1, renew }
}

fn node(hosts: &[&str], renew: bool) -> CertsOrder {
    CertsOrder::Node {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        term: term(renew),
    }
}

fn open(dir: &Path, name: &str, holder: Holder) -> Result<(), String> {
    let files = TlsFiles {
        cert: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
        ca: dir.join("ca.pem"),
    };
    let opened = Tls::open(files, holder);
    opened.map(|_| ()).map_err(|error| error.to_string())
}

fn held_by(host: &str) -> Holder {
    let host = host.to_owned();
    Holder::Node { host }
}

#[test]
fn a_ca_signs_for_nodes_and_routers() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = &temporary.path().join("new").join("certs");
    let output = order(dir, CertsOrder::Init { days: 2 }).unwrap();
    assert!(output.contains("ca.key"), "{output}");
    let output = order(dir, node(&["eu1.example", "10.0.0.1"], false)).unwrap();
    assert!(output.contains("eu1.example.pem"), "{output}");
    open(dir, "eu1.example", held_by("eu1.example")).unwrap();
    open(dir, "eu1.example", held_by("10.0.0.1")).unwrap();
    open(dir, "eu1.example", held_by("eu2.example")).unwrap_err();
    let name = "router1".to_owned();
    let term = term(false);
    order(dir, CertsOrder::Router { name, term }).unwrap();
    open(dir, "router1", Holder::Router).unwrap();
    open(dir, "router1", held_by("router1")).unwrap_err();
    for key in ["ca.key", "eu1.example.key", "router1.key"] {
        let mode = fs::metadata(dir.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn files_are_overwritten_only_with_renew() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    order(dir, CertsOrder::Init { days: 2 }).unwrap();
    order(dir, node(&["a"], false)).unwrap();
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let before = ["ca.pem", "ca.key", "a.pem", "a.key"].map(read);
    let refused = order(dir, CertsOrder::Init { days: 2 }).unwrap_err();
    assert!(refused.contains("the file exists"), "{refused}");
    let refused = order(dir, node(&["a"], false)).unwrap_err();
    assert!(refused.contains("--renew"), "{refused}");
    // One existing file of the two is enough for a refusal.
    fs::remove_file(dir.join("a.pem")).unwrap();
    order(dir, node(&["a"], false)).unwrap_err();
    fs::write(dir.join("a.pem"), &before[2]).unwrap();
    assert_eq!(["ca.pem", "ca.key", "a.pem", "a.key"].map(read), before);
    order(dir, node(&["a"], true)).unwrap();
    assert_ne!([read("a.pem"), read("a.key")], before[2..]);
    open(dir, "a", held_by("a")).unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 4);
}

#[test]
fn a_missing_or_mismatched_ca_is_reported() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let refused = order(dir, node(&["a"], false)).unwrap_err();
    assert!(refused.contains("certs init"), "{refused}");
    let (one, other) = (dir.join("one"), dir.join("other"));
    order(&one, CertsOrder::Init { days: 2 }).unwrap();
    order(&other, CertsOrder::Init { days: 2 }).unwrap();
    fs::copy(one.join("ca.key"), other.join("ca.key")).unwrap();
    let refused = order(&other, node(&["a"], false)).unwrap_err();
    assert!(refused.contains("isn't valid for"), "{refused}");
    fs::write(one.join("ca.key"), "no key").unwrap();
    let refused = order(&one, node(&["a"], false)).unwrap_err();
    assert!(refused.contains("no private key"), "{refused}");
}

#[test]
fn setup_creates_missing_certificates_only() {
    let temporary = tempfile::tempdir().unwrap();
    let (ca, into) = (temporary.path().join("ca"), temporary.path().join("certs"));
    let setup = |nodes: &[&str]| {
        let setup_order = CertsOrder::Setup {
            into: into.clone(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            routers: vec!["router".to_owned()],
        };
        order(&ca, setup_order).unwrap()
    };
    setup(&["a"]);
    let read = |path: &str| fs::read_to_string(into.join(path)).unwrap();
    let before = read("a/tls.crt");
    let output = setup(&["a", "b"]);
    assert!(output.contains("are still valid"), "{output}");
    assert_eq!(read("a/tls.crt"), before);
    for (name, holder) in [
        ("a", held_by("a")),
        ("b", held_by("b")),
        ("router", Holder::Router),
    ] {
        let folder = into.join(name);
        let files = TlsFiles {
            cert: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            ca: folder.join("ca.crt"),
        };
        Tls::open(files, holder).unwrap();
    }
    // With another CA, the certificates that the old one signed are replaced.
    fs::remove_dir_all(&ca).unwrap();
    setup(&["a"]);
    assert_ne!(read("a/tls.crt"), before);
    assert_ne!(read("a/ca.crt"), read("b/ca.crt"));
}
