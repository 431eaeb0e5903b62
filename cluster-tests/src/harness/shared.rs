//! One node for the tests of a file, as long as any of them runs.
//!
//! A static is never dropped, and a node in one would outlive the test run. So the static holds
//! a weak reference, each test a lease, and the last test to end stops the node. A test that
//! comes later starts another.

use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::thread;

use tokio::sync::Mutex;

use super::node::Node;

/// A node that tests share; they keep apart by their buckets.
#[derive(Debug)]
pub struct SharedNode {
    running: Mutex<Weak<Node>>,
}

impl SharedNode {
    /// No node yet.
    pub const fn new() -> Self {
        Self {
            running: Mutex::const_new(Weak::new()),
        }
    }

    /// The running node, or a new one.
    pub async fn lease(&self) -> Lease {
        let mut running = self.running.lock().await;
        let node = match running.upgrade() {
            Some(node) => node,
            None => Arc::new(Node::start().await),
        };
        *running = Arc::downgrade(&node);
        Lease(node)
    }
}

impl Default for SharedNode {
    fn default() -> Self {
        Self::new()
    }
}

/// A test's share of a node. When it ends, the node's log is judged: printed if the test failed,
/// searched for errors if it passed.
#[derive(Debug)]
pub struct Lease(Arc<Node>);

impl Deref for Lease {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The last lease leaves it to the node itself.
        if Arc::strong_count(&self.0) > 1 || !thread::panicking() {
            self.0.judge_log();
        }
    }
}
