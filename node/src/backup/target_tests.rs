//! Tests of places of backups.

use std::collections::VecDeque;
use std::path::Path as FilePath;

use cloudkv_common::process::describe_error;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const ID: &str = "20261201T034500Z";
const PART: &str = "shard-000/part-00000.zst";

fn open_folder(path: &FilePath) -> BackupTarget {
    BackupTarget::open(&format!("file://{}", path.display())).unwrap()
}

#[tokio::test]
async fn files_of_a_folder_are_written_read_listed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let target = open_folder(&dir.path().join("backups"));
    assert_eq!(target.list().await.unwrap(), [""; 0]);
    assert_eq!(target.find(ID, PART).await.unwrap(), None);
    assert_eq!(target.names(ID, "shard-000").await.unwrap(), [""; 0]);
    let missing = target.get(ID, PART).await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        "shard-000/part-00000.zst is missing from the backup"
    );
    for content in ["first", "second"] {
        let content = Bytes::from(content);
        target.put(ID, PART, content.clone()).await.unwrap();
        assert_eq!(target.get(ID, PART).await.unwrap(), content);
    }
    let file = dir.path().join("backups").join(ID).join(PART);
    assert_eq!(std::fs::read(&file).unwrap(), b"second");
    let other = "shard-000/shard.json";
    target.put(ID, other, Bytes::new()).await.unwrap();
    assert_eq!(target.get(ID, other).await.unwrap(), Bytes::new());
    assert_eq!(target.names(ID, "shard-000").await.unwrap(), [PART, other]);
    for _ in 0..2 {
        target.delete(ID, PART).await.unwrap();
        assert!(!file.exists());
    }
    assert_eq!(target.names(ID, "shard-000").await.unwrap(), [other]);
}

#[tokio::test]
async fn only_folders_of_backups_are_listed_the_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let target = open_folder(dir.path());
    let ids = ["20251201T034500Z", ID, "20261201T034501Z"];
    for id in [ids[2], ids[0], ids[1], "lost+found"] {
        target.put(id, "backup.json", Bytes::new()).await.unwrap();
    }
    std::fs::write(dir.path().join("20260101T000000Z"), "a file").unwrap();
    assert_eq!(target.list().await.unwrap(), ids);
    assert_eq!(target.url(), format!("file://{}", dir.path().display()));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "no folder").unwrap();
    let target = open_folder(&dir.path().join("file/backups"));
    let error = target.put(ID, PART, Bytes::new()).await.unwrap_err();
    let text = describe_error(&error);
    assert!(
        text.starts_with(&format!("write {}/{ID}/{PART}", target.url())),
        "{text}"
    );
    assert!(target.list().await.is_err());
}

#[tokio::test]
async fn no_path_leads_out_of_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let target = open_folder(&dir.path().join("backups"));
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    assert_eq!(target.find(ID, "../../secret").await.unwrap(), None);
    assert_eq!(target.find("..", "secret").await.unwrap(), None);
}

fn environment<'a>(
    variables: &'a [(&'a str, &'a str)],
) -> impl Fn(&'static str) -> Option<String> + 'a {
    move |name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    }
}

#[test]
fn what_the_environment_lacks_for_a_bucket_is_named() {
    let key = ("AWS_ACCESS_KEY_ID", "key");
    let secret = ("AWS_SECRET_ACCESS_KEY", "hidden");
    let open = |variables: &[(&str, &str)]| {
        BackupTarget::open_with("s3://bucket/folder/", &environment(variables))
    };
    for (variables, expected) in [
        (&[][..], "AWS_ACCESS_KEY_ID isn't set"),
        (&[secret][..], "AWS_ACCESS_KEY_ID isn't set"),
        (&[key][..], "AWS_SECRET_ACCESS_KEY isn't set"),
        (
            &[key, secret, ("AWS_ENDPOINT_URL", "127.0.0.1:9000")][..],
            "AWS_ENDPOINT_URL is no http",
        ),
    ] {
        let text = open(variables).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
        assert!(text.starts_with("use s3://bucket/folder:") && !text.contains("hidden"));
    }
    let target = open(&[key, secret, ("AWS_ENDPOINT_URL", "http://127.0.0.1:9")]).unwrap();
    assert!(!format!("{target:?}").contains("hidden"));
}

/// A store that gives prepared answers, and keeps the requests.
struct FakeStore {
    address: std::net::SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeStore {
    /// Starts a store with these answers; an empty one closes the connection.
    async fn start(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let kept = requests.clone();
        let mut answers: VecDeque<String> = answers.iter().map(ToString::to_string).collect();
        let server = tokio::spawn(async move {
            while let Some(answer) = answers.pop_front() {
                let (mut connection, _) = listener.accept().await.unwrap();
                let request = read_request(&mut connection).await;
                kept.lock().push(request);
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            address,
            requests,
            server,
        }
    }

    fn target(&self) -> BackupTarget {
        let endpoint = format!("http://{}", self.address);
        let variables = [
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ];
        BackupTarget::open_with("s3://bucket/folder", &environment(&variables)).unwrap()
    }

    /// First lines of all requests.
    fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock();
        let first = |request: &String| request.lines().next().unwrap().to_owned();
        requests.iter().map(first).collect()
    }
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Reads a request with its body.
async fn read_request(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return String::from_utf8(request).unwrap();
            }
        }
        assert_ne!(connection.read_buf(&mut request).await.unwrap(), 0);
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

#[tokio::test]
async fn a_store_that_fails_for_a_moment_is_asked_again() {
    let busy = answer("503 Slow Down", "", "");
    let written = answer("200 OK", "etag: \"1\"\r\n", "");
    let read = answer("200 OK", "etag: \"1\"\r\n", "content");
    let missing = answer("404 Not Found", "", "<Error><Code>NoSuchKey</Code></Error>");
    let store = FakeStore::start(&[&busy, "", &written, &busy, &read, &missing]).await;
    let target = store.target();
    let content = Bytes::from_static(b"content");
    target.put(ID, PART, content.clone()).await.unwrap();
    assert_eq!(target.get(ID, PART).await.unwrap(), content);
    assert_eq!(target.find(ID, PART).await.unwrap(), None);
    let path = format!("/bucket/folder/{ID}/{PART}");
    let (put, get) = (
        format!("PUT {path} HTTP/1.1"),
        format!("GET {path} HTTP/1.1"),
    );
    let expected = [&put, &put, &put, &get, &get, &get];
    assert!(store.requests().iter().eq(expected));
    let put = store.requests.lock()[2].clone();
    assert!(put.ends_with("\r\n\r\ncontent") && put.contains("AWS4-HMAC-SHA256"));
    assert!(!put.contains("hidden"));
}

#[tokio::test]
async fn a_store_that_refuses_the_credentials_is_asked_once() {
    let body = "<Error><Code>SignatureDoesNotMatch</Code></Error>";
    let store = FakeStore::start(&[&answer("403 Forbidden", "", body)]).await;
    let error = store
        .target()
        .put(ID, PART, Bytes::new())
        .await
        .unwrap_err();
    assert!(matches!(error, BackupError::Refused { .. }), "{error:?}");
    let text = describe_error(&error);
    assert!(text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
    assert_eq!(store.requests().len(), 1);
}
