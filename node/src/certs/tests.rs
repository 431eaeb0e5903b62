//! The certificates are accepted by the rpc port.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cloudkv_common::transport::tls::{Tls, TlsFiles, TlsRole};

use super::run;
use crate::config::{CertificateValidity, CertsArgs, CertsCommand};

fn run_order(dir: &Path, order: CertsCommand) -> Result<String, String> {
    let args = CertsArgs {
        dir: dir.to_owned(),
        command: order,
    };
    run(&args).map_err(|error| error.to_string())
}

fn term(renew: bool) -> CertificateValidity {
    CertificateValidity { days: 1, renew }
}

fn node(hosts: &[&str], renew: bool) -> CertsCommand {
    CertsCommand::Node {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        term: term(renew),
    }
}

fn open(dir: &Path, name: &str, holder: TlsRole) -> Result<(), String> {
    let files = TlsFiles {
        cert: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
        ca: dir.join("ca.pem"),
    };
    let opened = Tls::open(files, holder);
    opened.map(|_| ()).map_err(|error| error.to_string())
}

fn node_holder(host: &str) -> TlsRole {
    let host = host.to_owned();
    TlsRole::Node { host }
}

#[test]
fn a_ca_signs_for_nodes_and_routers() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = &temporary.path().join("new").join("certs");
    let output = run_order(dir, CertsCommand::Init { days: 2 }).unwrap();
    assert!(output.contains("ca.key"), "{output}");
    let output = run_order(dir, node(&["eu1.example", "10.0.0.1"], false)).unwrap();
    assert!(output.contains("eu1.example.pem"), "{output}");
    open(dir, "eu1.example", node_holder("eu1.example")).unwrap();
    open(dir, "eu1.example", node_holder("10.0.0.1")).unwrap();
    open(dir, "eu1.example", node_holder("eu2.example")).unwrap_err();
    let name = "router1".to_owned();
    let term = term(false);
    run_order(dir, CertsCommand::Router { name, term }).unwrap();
    open(dir, "router1", TlsRole::Router).unwrap();
    open(dir, "router1", node_holder("router1")).unwrap_err();
    for key in ["ca.key", "eu1.example.key", "router1.key"] {
        let mode = fs::metadata(dir.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn files_are_overwritten_only_with_renew() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    run_order(dir, CertsCommand::Init { days: 2 }).unwrap();
    run_order(dir, node(&["a"], false)).unwrap();
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let before = ["ca.pem", "ca.key", "a.pem", "a.key"].map(read);
    let refused = run_order(dir, CertsCommand::Init { days: 2 }).unwrap_err();
    assert!(refused.contains("the file exists"), "{refused}");
    let refused = run_order(dir, node(&["a"], false)).unwrap_err();
    assert!(refused.contains("--renew"), "{refused}");
    // One existing file of the two is enough for a refusal.
    fs::remove_file(dir.join("a.pem")).unwrap();
    run_order(dir, node(&["a"], false)).unwrap_err();
    fs::write(dir.join("a.pem"), &before[2]).unwrap();
    assert_eq!(["ca.pem", "ca.key", "a.pem", "a.key"].map(read), before);
    run_order(dir, node(&["a"], true)).unwrap();
    assert_ne!([read("a.pem"), read("a.key")], before[2..]);
    open(dir, "a", node_holder("a")).unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 4);
}

#[test]
fn a_missing_or_mismatched_ca_is_reported() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let refused = run_order(dir, node(&["a"], false)).unwrap_err();
    let advice = format!("certs init --dir {}`", dir.display());
    assert!(refused.contains(&advice), "{refused}");
    let (one, other) = (dir.join("one"), dir.join("other"));
    run_order(&one, CertsCommand::Init { days: 2 }).unwrap();
    run_order(&other, CertsCommand::Init { days: 2 }).unwrap();
    fs::copy(one.join("ca.key"), other.join("ca.key")).unwrap();
    let refused = run_order(&other, node(&["a"], false)).unwrap_err();
    assert!(refused.contains("isn't valid for"), "{refused}");
    fs::write(one.join("ca.key"), "no key").unwrap();
    let refused = run_order(&one, node(&["a"], false)).unwrap_err();
    assert!(refused.contains("no private key"), "{refused}");
}

#[test]
fn setup_creates_missing_certificates_only() {
    let temporary = tempfile::tempdir().unwrap();
    let (ca, into) = (temporary.path().join("ca"), temporary.path().join("certs"));
    let setup = |nodes: &[&str]| {
        let setup_order = CertsCommand::Setup {
            into: into.clone(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            routers: vec!["router".to_owned()],
        };
        run_order(&ca, setup_order).unwrap()
    };
    setup(&["a"]);
    let read = |path: &str| fs::read_to_string(into.join(path)).unwrap();
    let before = read("a/tls.crt");
    let output = setup(&["a", "b"]);
    assert!(output.contains("are still valid"), "{output}");
    assert_eq!(read("a/tls.crt"), before);
    for (name, holder) in [
        ("a", node_holder("a")),
        ("b", node_holder("b")),
        ("router", TlsRole::Router),
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
