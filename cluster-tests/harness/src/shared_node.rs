//! One node shared by the tests of a file while any of them runs.
//!
//! A static is never dropped, and a node in one would outlive the test run. So the static holds a
//! weak reference, each test a lease, and the last test to end stops the node. A test that starts
//! after that starts another node.
//!
//! A test program whose name begins with `router_` calls the node through a router: so the same
//! tests cover both ways.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::thread;

use tokio::sync::Mutex;

use super::http::ApiClient;
use super::node::Node;
use super::router::Router;

/// Prefix of the names of test programs that call the node through a router.
const ROUTER_TEST_PREFIX: &str = "router_";

/// A node that tests share; each uses its own buckets.
#[derive(Debug)]
pub struct SharedNode {
    running: Mutex<Weak<RunningNode>>,
}

/// A node, and the router in front of it.
#[derive(Debug)]
struct RunningNode {
    router: Option<Router>,
    node: Node,
}

impl RunningNode {
    async fn start() -> Self {
        let node = Node::start().await;
        let router = if uses_router() {
            Some(Router::start(&[node.rpc()]).await)
        } else {
            None
        };
        Self { router, node }
    }
}

fn uses_router() -> bool {
    let program = std::env::current_exe().ok();
    let name = program
        .as_deref()
        .and_then(|path| path.file_name()?.to_str());
    name.is_some_and(|name| name.starts_with(ROUTER_TEST_PREFIX))
}

impl SharedNode {
    /// Creates the holder without a node.
    pub const fn new() -> Self {
        Self {
            running: Mutex::const_new(Weak::new()),
        }
    }

    /// Leases the running node, or starts one.
    pub async fn lease(&self) -> NodeLease {
        let mut running = self.running.lock().await;
        let shared = match running.upgrade() {
            Some(shared) => shared,
            None => Arc::new(RunningNode::start().await),
        };
        *running = Arc::downgrade(&shared);
        NodeLease(shared)
    }
}

impl Default for SharedNode {
    fn default() -> Self {
        Self::new()
    }
}

/// A test's lease of a shared node. When it ends, the node's log is printed if the test failed, and
/// searched for errors if it passed.
#[derive(Debug)]
pub struct NodeLease(Arc<RunningNode>);

impl NodeLease {
    /// Returns a client of the public port, or of the router in front of it.
    pub fn api(&self) -> ApiClient {
        ApiClient::new(self.http())
    }

    /// Returns the address of the public port, or of the router in front of it.
    pub fn http(&self) -> SocketAddr {
        let router = self.0.router.as_ref();
        router.map_or_else(|| self.0.node.http(), Router::http)
    }
}

impl Deref for NodeLease {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0.node
    }
}

impl Drop for NodeLease {
    fn drop(&mut self) {
        // With the last lease the node checks its log itself.
        if Arc::strong_count(&self.0) > 1 || !thread::panicking() {
            self.0.node.check_log();
        }
    }
}
