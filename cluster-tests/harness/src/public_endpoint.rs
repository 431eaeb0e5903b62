//! A public endpoint under test: a node's, or that of a router in front of one.

use std::net::{Ipv4Addr, SocketAddr};

use super::http::{ApiClient, Bucket};
use super::node::{Node, NodeOptions};
use super::router::Router;

/// A node with a public endpoint, its own or a router's.
#[derive(Debug)]
pub struct PublicEndpoint {
    /// Router in front, if there is one.
    pub router: Option<Router>,
    /// Node with the data.
    pub node: Node,
}

impl PublicEndpoint {
    /// Starts a node with these arguments.
    pub async fn with_node(args: &[&str]) -> Self {
        let options = NodeOptions {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..NodeOptions::default()
        };
        Self {
            router: None,
            node: Node::start_with(options).await,
        }
    }

    /// Starts a router with these arguments, in front of a node with none.
    pub async fn with_router(args: &[&str]) -> Self {
        let node = Node::start().await;
        Self {
            router: Some(Router::start_with(&[node.rpc()], args).await),
            node,
        }
    }

    /// Starts a router with no arguments, in front of a node with these.
    pub async fn with_router_to_node(args: &[&str]) -> Self {
        let Self { node, .. } = Self::with_node(args).await;
        Self {
            router: Some(Router::start(&[node.rpc()]).await),
            node,
        }
    }

    /// Returns the public address.
    pub fn http(&self) -> SocketAddr {
        let router = self.router.as_ref();
        router.map_or_else(|| self.node.http(), Router::http)
    }

    /// Returns the ID of the process that listens there.
    pub fn pid(&self) -> u32 {
        let router = self.router.as_ref();
        router.map_or_else(|| self.node.pid(), Router::pid)
    }

    /// Returns a client that calls from this address.
    pub fn api_from(&self, local: Ipv4Addr) -> ApiClient {
        ApiClient::from_address(local, self.http())
    }

    /// Creates a bucket of the largest plan, whose values may have 1 MiB.
    pub async fn large_bucket(&self) -> Bucket {
        let plan = serde_json::json!({"value_bytes": 1 << 20});
        let admin = self.node.admin_api();
        let change = admin.patch("/plans/business").json(&plan);
        change.unchecked().await.assert_status(200);
        self.node
            .api()
            .create_bucket_with(&[("plan", "business")])
            .await
    }
}
