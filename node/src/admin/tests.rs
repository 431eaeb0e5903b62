//! The operator's port over real connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{AdminState, execute, serve};
use crate::config::{Action, OperatorCall, Secret, Target};

const TOKEN: &str = "0123456789abcdef";

#[derive(Default)]
struct Node {
    ready: AtomicBool,
}

impl AdminState for Node {
    fn ready(&self) -> Vec<(String, bool)> {
        let ready = self.ready.load(Ordering::Relaxed);
        vec![("metadata".to_owned(), true), ("shard 3".to_owned(), ready)]
    }

    fn metrics(&self) -> String {
        "up 1\n".to_owned()
    }

    fn status(&self) -> Value {
        json!({ "region": "local" })
    }
}

struct Port {
    address: SocketAddr,
    node: Arc<Node>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn port(token: Option<&str>) -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = Arc::new(Node::default());
    let shutdown = CancellationToken::new();
    let token = token.map(|token| Secret::new(token.to_owned()));
    let task = tokio::spawn(serve(listener, node.clone(), token, shutdown.clone()));
    Port {
        address,
        node,
        shutdown,
        task,
    }
}

impl Port {
    /// The whole answer to a request with these lines.
    async fn ask(&self, line: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn call(&self, token: Option<&str>, action: Action) -> Result<String, String> {
        let target = Target::parse(&self.address.to_string()).unwrap();
        let token = token.map(|token| Secret::new(token.to_owned()));
        let call = OperatorCall {
            target,
            token,
            action,
        };
        execute(&call).await.map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let port = port(None).await;
    let answer = port.ask("GET /readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains(r#""waiting_for":["shard 3"]"#), "{answer}");
    port.node.ready.store(true, Ordering::Relaxed);
    let answer = port.ask("GET /readyz", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(r#""ready":true"#),
        "{answer}"
    );
}

#[tokio::test]
async fn a_token_guards_all_but_health_and_readiness() {
    let port = port(Some(TOKEN)).await;
    for (line, status) in [
        ("GET /healthz", 200),
        ("GET /readyz", 503),
        ("GET /metrics", 401),
        ("GET /status", 401),
    ] {
        let answer = port.ask(line, "").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{line}: {answer}"
        );
    }
    let wrong = port
        .ask("GET /status", "authorization: Bearer 0123456789abcdeg\r\n")
        .await;
    assert!(
        wrong.contains("401") && wrong.contains("www-authenticate: Bearer"),
        "{wrong}"
    );
    let right = port
        .ask(
            "GET /metrics",
            &format!("Authorization: bearer {TOKEN}\r\n"),
        )
        .await;
    assert!(
        right.starts_with("HTTP/1.1 200") && right.ends_with("up 1\n"),
        "{right}"
    );
    assert!(
        right.contains("content-type: text/plain; version=0.0.4"),
        "{right}"
    );
}

#[tokio::test]
async fn other_routes_and_methods_are_refused_as_json() {
    let port = port(None).await;
    let answer = port.ask("GET /nothing", "").await;
    assert!(
        answer.contains("404") && answer.contains(r#""error":"no_such_route""#),
        "{answer}"
    );
    let answer = port.ask("POST /metrics", "").await;
    assert!(
        answer.contains("405") && answer.contains("allow: GET,HEAD"),
        "{answer}"
    );
    assert!(
        answer.contains(r#""error":"method_not_allowed""#),
        "{answer}"
    );
}

#[tokio::test]
async fn commands_show_status_and_health() {
    let port = port(Some(TOKEN)).await;
    let status = Action::Status { json: false };
    assert_eq!(
        port.call(Some(TOKEN), status.clone()).await.unwrap(),
        "region  local\n"
    );
    let refused = port.call(None, status).await.unwrap_err();
    assert!(
        refused.contains("401") && refused.contains("token"),
        "{refused}"
    );
    assert_eq!(
        port.call(None, Action::Health { ready: false })
            .await
            .unwrap(),
        "ok\n"
    );
    let waiting = port
        .call(None, Action::Health { ready: true })
        .await
        .unwrap_err();
    assert!(waiting.contains("shard 3"), "{waiting}");
}

#[tokio::test]
async fn shutdown_closes_the_port_and_idle_connections() {
    let port = port(None).await;
    let mut idle = TcpStream::connect(port.address).await.unwrap();
    port.ask("GET /healthz", "").await;
    port.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(1), port.task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert!(TcpStream::connect(port.address).await.is_err());
    let target = Target::parse(&port.address.to_string()).unwrap();
    let call = OperatorCall {
        target,
        token: None,
        action: Action::Health { ready: false },
    };
    let error = execute(&call).await.unwrap_err().to_string();
    assert!(error.contains("connect to http://127.0.0.1:"), "{error}");
}
