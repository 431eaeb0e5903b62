//! moto's server of S3, from PyPI, which `scripts/setup test` installs.

use std::env;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::http::{ApiClient, ApiRequest};
use crate::wait::eventually;

/// Header of a request that is signed by some key: without one, objects aren't public. moto doesn't
/// verify it.
const SOME_KEY: &str = "AWS4-HMAC-SHA256 Credential=some/20260101/us-east-1/s3/aws4_request, \
                        SignedHeaders=host, Signature=0";

/// Python takes a while to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Region of the server, as clients must name it.
const REGION: &str = "us-east-1";

/// An access key of a client.
#[derive(Clone, Debug)]
pub struct AccessKey {
    /// Its ID.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

impl AccessKey {
    /// Creates a key.
    pub fn new(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
        }
    }
}

/// A server of S3 with its data in memory; stopped when dropped.
#[derive(Debug)]
pub struct MotoServer {
    child: Child,
    address: SocketAddr,
}

impl MotoServer {
    /// Starts a server without any bucket. `None` if it isn't installed.
    pub async fn start() -> Option<Self> {
        let program = find_program()?;
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let port = address.port().to_string();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start moto");
        let server = Self { child, address };
        eventually("moto listens", START_TIMEOUT, async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        Some(server)
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn api(&self) -> ApiClient {
        ApiClient::new(self.address)
    }

    /// Creates a bucket.
    pub async fn create_bucket(&self, name: &str) {
        let put = self.api().put(&format!("/{name}"), "").unchecked();
        put.await.assert_status(200);
    }

    /// Returns the names of all objects of a bucket, in their order.
    pub async fn object_names(&self, bucket: &str) -> Vec<String> {
        let list = self
            .api()
            .get(&format!("/{bucket}?list-type=2"))
            .header("authorization", SOME_KEY);
        let list = list.unchecked().await;
        let pieces = list.assert_status(200).text().split("<Key>").skip(1);
        let names = pieces.filter_map(|piece| piece.split_once("</Key>"));
        names.map(|(name, _)| name.to_owned()).collect()
    }

    /// Returns an object.
    pub async fn read_object(&self, bucket: &str, name: &str) -> Vec<u8> {
        let get = self
            .api()
            .get(&format!("/{bucket}/{name}"))
            .header("authorization", SOME_KEY)
            .unchecked();
        get.await.assert_status(200).body.to_vec()
    }

    /// Writes an object.
    pub async fn write_object(&self, bucket: &str, name: &str, bytes: Vec<u8>) {
        let put = self
            .api()
            .put(&format!("/{bucket}/{name}"), bytes)
            .header("authorization", SOME_KEY);
        put.unchecked().await.assert_status(200);
    }

    /// Deletes an object.
    pub async fn delete_object(&self, bucket: &str, name: &str) {
        let delete = self
            .api()
            .delete(&format!("/{bucket}/{name}"))
            .header("authorization", SOME_KEY);
        delete.unchecked().await.assert_status(204);
    }

    /// Creates an access key. It isn't needed until [`MotoServer::check_keys`].
    pub async fn create_key(&self) -> AccessKey {
        self.call_iam("Action=CreateUser&UserName=backups").await;
        let created = self
            .call_iam("Action=CreateAccessKey&UserName=backups")
            .await;
        let field = |name: &str| {
            let rest = created.split_once(&format!("<{name}>"));
            let value = rest.and_then(|(_, rest)| rest.split_once("</"));
            value.expect("a field of the key").0.to_owned()
        };
        AccessKey {
            id: field("AccessKeyId"),
            secret: field("SecretAccessKey"),
        }
    }

    /// Refuses requests with wrong keys from here on. It also refuses lists of folders with right
    /// keys, since it signs their decoded names.
    pub async fn check_keys(&self) {
        let reset = self.api().post("/moto-api/reset-auth").body("0");
        reset.unchecked().await.assert_status(200);
    }

    async fn call_iam(&self, action: &'static str) -> String {
        let post: ApiRequest = self.api().post("/").urlencoded(action);
        // The service is named in the signature, which isn't checked.
        let credential = format!("Credential=x/20260101/{REGION}/iam/aws4_request");
        let signature = format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0");
        let answer = post.header("authorization", &signature).unchecked().await;
        answer.assert_status(200).text().to_owned()
    }
}

impl Drop for MotoServer {
    fn drop(&mut self) {
        // Fails only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the environment of a client of the server of S3 at this address.
pub fn s3_env(address: SocketAddr, key: &AccessKey) -> Vec<(String, String)> {
    let variables = [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", key.id.clone()),
        ("AWS_SECRET_ACCESS_KEY", key.secret.clone()),
    ];
    let variables = variables.into_iter();
    variables
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Returns the program: the one that `CLOUDKV_MOTO_SERVER` names, that which `scripts/setup test`
/// installs into the target directory, or one in the `PATH`.
fn find_program() -> Option<PathBuf> {
    if let Some(path) = env::var_os("CLOUDKV_MOTO_SERVER") {
        return Some(path.into());
    }
    // A test runs from `<target>/<profile>/deps/`.
    let test = env::current_exe().expect("the path of this test");
    let installed = test
        .ancestors()
        .nth(3)
        .map(|target| target.join("moto/bin"));
    let search_path = env::var_os("PATH").unwrap_or_default();
    let dirs = installed.into_iter().chain(env::split_paths(&search_path));
    let mut programs = dirs.map(|dir| dir.join("moto_server"));
    programs.find(|program| program.is_file())
}
