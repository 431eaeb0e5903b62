//! Tests of certificates of several kinds, over real sockets.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, StreamExt};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer,
    KeyPair, SanType, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{
    Connections, DialError, Dialer, PeerIdentity, Tls, TlsError, TlsFiles, TlsRole, accept,
};

const NODE: &[Usage] = &[Usage::ServerAuth, Usage::ClientAuth];
const ROUTER: &[Usage] = &[Usage::ClientAuth];

struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    /// Signs a certificate, and returns it with its key.
    fn sign(
        &self,
        names: &[&str],
        usages: &[Usage],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let mut params = CertificateParams::default();
        let san = |name: &&str| match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(san).collect();
        params.extended_key_usages = usages.to_vec();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn files(&self, names: &[&str], usages: &[Usage]) -> TestFiles {
        let files = TestFiles(tempfile::tempdir().unwrap());
        files.write(&self.sign(names, usages, |_| {}), &self.certificate);
        files
    }
}

struct TestFiles(TempDir);

impl TestFiles {
    fn write(&self, (certificate, key): &(String, String), ca: &str) {
        let write = |name, text: &str| fs::write(self.0.path().join(name), text).unwrap();
        write("cert", certificate);
        write("key", key);
        write("ca", ca);
    }

    fn paths(&self) -> TlsFiles {
        let path = |name: &str| Path::join(self.0.path(), name);
        TlsFiles {
            cert: path("cert"),
            key: path("key"),
            ca: path("ca"),
        }
    }

    fn node(&self, host: &str) -> Result<Arc<Tls>, TlsError> {
        let host = host.to_owned();
        Tls::open(self.paths(), TlsRole::Node { host })
    }

    fn router(&self) -> Result<Arc<Tls>, TlsError> {
        Tls::open(self.paths(), TlsRole::Router)
    }
}

/// Starts a server that greets each connection with one word, and sends the identities of callers.
async fn server(tls: &Arc<Tls>) -> (String, tokio::sync::mpsc::Receiver<PeerIdentity>) {
    use tonic::transport::server::Connected;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let here = tokio::runtime::Handle::current();
    let accepted = accept(listener, Some(tls.clone()), here.clone(), &[here]);
    let streams = accepted.users.into_iter().chain(accepted.forwarded);
    let streams = streams.chain([accepted.raft, accepted.others]);
    let mut connections = futures_util::stream::select_all(streams);
    let (identities, callers) = tokio::sync::mpsc::channel(10);
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = connections.next().await {
            stream.write_all(b"hello").await.unwrap();
            stream.flush().await.unwrap();
            if identities.send(stream.connect_info()).await.is_err() {
                return;
            }
        }
    });
    (address, callers)
}

fn dialer(tls: &Arc<Tls>) -> Dialer {
    Dialer::new(std::collections::HashMap::new(), Some(tls.clone()))
}

/// Connects and reads the server's greeting; with TLS 1.3 a refusal shows at the first read.
async fn read_greeting(tls: &Arc<Tls>, address: &str) -> Result<String, String> {
    let mut stream = dialer(tls)
        .connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let mut text = [0; 5];
    let read = stream.read_exact(&mut text).await;
    read.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(text.to_vec()).unwrap())
}

/// Counts the connections that are ready now.
fn count_ready(connections: &mut Connections) -> usize {
    let mut ready = 0;
    while let Some(Some(Ok(_))) = connections.next().now_or_never() {
        ready += 1;
    }
    ready
}

#[tokio::test]
async fn worker_threads_take_turns_by_purpose() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let here = tokio::runtime::Handle::current();
    let mut accepted = accept(listener, None, here.clone(), &[here.clone(), here]);
    let dialer = Dialer::default();
    // Connections between those of a purpose must not disturb their turns.
    for dialer in [
        dialer.for_forwarded(),
        dialer.for_users(),
        dialer.clone(),
        dialer.for_raft(),
        dialer.for_forwarded(),
        dialer.for_users(),
    ] {
        let mut stream = dialer.connect(&address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        tokio::spawn(async move { while stream.read_u8().await.is_ok() {} });
    }
    let (mut counted, mut all) = ([0; 6], 0);
    let wait = async {
        while all < 6 {
            tokio::task::yield_now().await;
            let [first, second] = &mut accepted.forwarded[..] else {
                panic!("two threads");
            };
            let [third, fourth] = &mut accepted.users[..] else {
                panic!("two threads");
            };
            let (raft, others) = (&mut accepted.raft, &mut accepted.others);
            for (queue, connections) in [first, second, third, fourth, raft, others]
                .into_iter()
                .enumerate()
            {
                let more = count_ready(connections);
                counted[queue] += more;
                all += more;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap();
    assert_eq!(counted, [1; 6]);
}

#[tokio::test]
async fn nodes_and_routers_reach_a_node_and_are_distinguished() {
    let ca = Ca::new();
    let server_files = ca.files(&["127.0.0.1"], NODE);
    let (address, mut callers) = server(&server_files.node("127.0.0.1").unwrap()).await;
    let files = ca.files(&["eu1.example", "10.0.0.1"], NODE);
    let node = files.node("eu1.example").unwrap();
    assert_eq!(read_greeting(&node, &address).await.unwrap(), "hello");
    let Some(PeerIdentity::Certified(peer)) = callers.recv().await else {
        panic!("a caller without a certificate");
    };
    assert!(peer.is_node());
    assert!(
        peer.names_host("eu1.example")
            && peer.names_host("EU1.example")
            && peer.names_host("10.0.0.1")
    );
    for other in [
        "eu2.example",
        "example",
        "10.0.0.2",
        "x.eu1.example",
        "",
        "*",
    ] {
        assert!(!peer.names_host(other), "{other}");
    }
    let files = ca.files(&["router"], ROUTER);
    let router = files.router().unwrap();
    assert_eq!(read_greeting(&router, &address).await.unwrap(), "hello");
    let Some(PeerIdentity::Certified(peer)) = callers.recv().await else {
        panic!("a caller without a certificate");
    };
    assert!(!peer.is_node());
    assert_eq!(peer.hosts(), "router");
}

#[tokio::test]
async fn callers_without_a_certificate_of_the_ca_get_no_data() {
    let ca = Ca::new();
    let server_files = ca.files(&["127.0.0.1"], NODE);
    let tls = server_files.node("127.0.0.1").unwrap();
    let (address, mut callers) = server(&tls).await;

    // A certificate of another CA. Its holder is made to trust the server's CA.
    let other = Ca::new();
    let files = other.files(&["127.0.0.1"], NODE);
    files.node("127.0.0.1").unwrap();
    let both = format!("{}{}", other.certificate, ca.certificate);
    fs::write(files.paths().ca, both).unwrap();
    let foreign = files.node("127.0.0.1").unwrap();
    let refused = read_greeting(&foreign, &address).await.unwrap_err();
    assert!(refused.contains("fatal alert"), "{refused}");

    // Without TLS, and with bytes of no protocol.
    for garbage in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &[0xff; 4096],
        b"\x16\x03\x01\xff\xff",
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is a valid end, too.
        let _ = stream.read_to_end(&mut answer).await;
        let alert = 0x15;
        assert!(answer.len() < 32, "{answer:?}");
        assert!(answer.is_empty() || answer[0] == alert, "{answer:?}");
    }
    assert!(callers.try_recv().is_err());
    assert_eq!(tls.refused_connections(), 4);
}

#[tokio::test]
async fn a_caller_without_any_certificate_gets_no_data() {
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let ca = Ca::new();
    let server_files = ca.files(&["127.0.0.1"], NODE);
    let tls = server_files.node("127.0.0.1").unwrap();
    let (address, mut callers) = server(&tls).await;
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(&address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let refused = stream.read_u8().await.unwrap_err().to_string();
    assert!(refused.contains("CertificateRequired"), "{refused}");
    assert!(callers.try_recv().is_err());
    assert_eq!(tls.refused_connections(), 1);
}

#[tokio::test]
async fn only_the_node_that_was_dialed_is_accepted() {
    let ca = Ca::new();
    let caller_files = ca.files(&["caller"], NODE);
    let caller = caller_files.node("caller").unwrap();
    // Another node's certificate.
    let other = ca.files(&["127.0.0.2"], NODE).node("127.0.0.2").unwrap();
    let (address, _callers) = server(&other).await;
    let port = address.rsplit_once(':').unwrap().1;
    let refused = dialer(&caller).connect(&address).await.unwrap_err();
    assert!(matches!(refused, DialError::WrongPeer { .. }), "{refused}");
    assert!(refused.to_string().contains(&address), "{refused}");

    // The same node by an address override: the name that was dialed counts.
    let overriding = |from: &str| {
        let overrides = [(from.to_owned(), address.clone())].into_iter().collect();
        Dialer::new(overrides, Some(caller.clone()))
    };
    let dialed = format!("127.0.0.2:{port}");
    overriding(&dialed).connect(&dialed).await.unwrap();
    let dialed = "127.0.0.3:7070";
    assert!(overriding(dialed).connect(dialed).await.is_err());

    // An address without a listener is another error.
    let refused = dialer(&caller).connect("127.0.0.1:1").await.unwrap_err();
    assert!(matches!(refused, DialError::Connect { .. }), "{refused}");
}

#[tokio::test]
async fn a_routers_certificate_cannot_stand_for_a_node() {
    let ca = Ca::new();
    let files = ca.files(&["127.0.0.1"], ROUTER);
    let refused = files.node("127.0.0.1").unwrap_err().to_string();
    assert!(refused.contains("serverAuth"), "{refused}");
    // Used to serve all the same, it is refused by the dialing end.
    let (address, _callers) = server(&files.router().unwrap()).await;
    let caller_files = ca.files(&["caller"], NODE);
    let caller = caller_files.node("caller").unwrap();
    let refused = dialer(&caller).connect(&address).await.unwrap_err();
    assert!(matches!(refused, DialError::WrongPeer { .. }), "{refused}");
    // A node's certificate grants too much to a router.
    let refused = caller_files.router().unwrap_err().to_string();
    assert!(refused.contains("certs router"), "{refused}");
}

#[tokio::test]
async fn a_stalled_handshake_blocks_no_other() {
    let ca = Ca::new();
    let files = ca.files(&["127.0.0.1"], NODE);
    let tls = files.node("127.0.0.1").unwrap();
    let (address, mut callers) = server(&tls).await;
    let mut idle = Vec::new();
    for _ in 0..280 {
        idle.push(TcpStream::connect(&address).await.unwrap());
    }
    assert_eq!(read_greeting(&tls, &address).await.unwrap(), "hello");
    assert!(callers.recv().await.is_some());
    // The oldest were aborted in favor of the others.
    let end = tokio::time::timeout(Duration::from_secs(30), idle[0].read_u8()).await;
    assert!(end.expect("an end").is_err());
}

#[test]
fn files_that_do_not_match_are_refused_with_their_names() {
    let ca = Ca::new();
    let good = || ca.files(&["a"], NODE);
    let refusal = |files: &TestFiles| files.node("a").unwrap_err().to_string();

    let files = good();
    fs::remove_file(files.paths().key).unwrap();
    assert!(refusal(&files).contains("/key"));
    let files = good();
    fs::write(files.paths().cert, "no certificate").unwrap();
    assert!(refusal(&files).contains("holds no certificate"));
    let files = good();
    fs::write(files.paths().key, ca.sign(&["a"], NODE, |_| {}).1).unwrap();
    assert!(refusal(&files).contains("can't be used together"));
    let files = good();
    fs::write(files.paths().ca, Ca::new().certificate).unwrap();
    assert!(refusal(&files).contains("not valid for the CA"));
    let files = good();
    let old = ca.sign(&["a"], NODE, |params| {
        params.not_after = date_time_ymd(2020, 1, 1)
    });
    files.write(&old, &ca.certificate);
    assert!(refusal(&files).contains("not valid"));
    let wild = ca.files(&["a", "*.a.example"], NODE);
    assert!(refusal(&wild).contains("*.a.example"));
    let other = ca.files(&["b", "127.0.0.4"], NODE);
    assert!(refusal(&other).contains("names b, 127.0.0.4, but"));
}

#[test]
fn the_expiry_of_the_certificate_is_known() {
    let ca = Ca::new();
    let files = ca.files(&["a"], NODE);
    let until = date_time_ymd(2150, 1, 1);
    let signed = ca.sign(&["a"], NODE, |params| params.not_after = until);
    files.write(&signed, &ca.certificate);
    let expiry = files.node("a").unwrap().valid_until();
    assert_eq!(expiry, SystemTime::from(until));
}

#[tokio::test]
async fn new_files_are_loaded_and_invalid_ones_change_nothing() {
    let ca = Ca::new();
    let files = ca.files(&["127.0.0.1"], NODE);
    let tls = files.node("127.0.0.1").unwrap();
    let (address, mut callers) = server(&tls).await;
    let caller_files = ca.files(&["caller"], NODE);
    let caller = caller_files.node("caller").unwrap();
    read_greeting(&caller, &address).await.unwrap();

    let mut watch = tls.file_watch();
    assert!(!watch.take_change());
    let mut reload = || {
        assert!(watch.take_change());
        tls.reload();
    };

    // Invalid, and for another host: the previous ones stay in use.
    fs::write(files.paths().cert, "half a certificate").unwrap();
    reload();
    assert!(tls.is_stale());
    read_greeting(&caller, &address).await.unwrap();
    files.write(&ca.sign(&["127.0.0.9"], NODE, |_| {}), &ca.certificate);
    reload();
    assert!(tls.is_stale());
    read_greeting(&caller, &address).await.unwrap();

    // A new CA: only holders of its certificates are accepted.
    let new = Ca::new();
    let until = date_time_ymd(2200, 1, 1);
    let signed = new.sign(&["127.0.0.1"], NODE, |params| params.not_after = until);
    files.write(&signed, &new.certificate);
    reload();
    assert!(!tls.is_stale());
    assert_eq!(tls.valid_until(), SystemTime::from(until));
    read_greeting(&caller, &address).await.unwrap_err();
    let new_files = new.files(&["caller"], NODE);
    let caller = new_files.node("caller").unwrap();
    read_greeting(&caller, &address).await.unwrap();
    for _ in 0..4 {
        assert!(callers.recv().await.is_some());
    }
}
