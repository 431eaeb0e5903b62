//! A port that strangers reach: a node's, or that of a router in front of one.

use std::net::{Ipv4Addr, SocketAddr};

use super::http::{Api, Bucket};
use super::node::{Node, NodeOptions};
use super::router::Router;

/// What answers strangers.
#[derive(Debug)]
pub struct Target {
    /// In front, if there is one.
    pub router: Option<Router>,
    /// What has the keys.
    pub node: Node,
}

impl Target {
    /// A node with these arguments.
    pub async fn node(args: &[&str]) -> Self {
        let options = NodeOptions {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..NodeOptions::default()
        };
        Self {
            router: None,
            node: Node::start_with(options).await,
        }
    }

    /// A router with these arguments, in front of a node with none.
    pub async fn router(args: &[&str]) -> Self {
        let node = Node::start().await;
        Self {
            router: Some(Router::start_with(&[node.rpc()], args).await),
            node,
        }
    }

    /// A router with no arguments, in front of a node with these.
    pub async fn router_to_node(args: &[&str]) -> Self {
        let Self { node, .. } = Self::node(args).await;
        Self {
            router: Some(Router::start(&[node.rpc()]).await),
            node,
        }
    }

    /// The port.
    pub fn http(&self) -> SocketAddr {
        let router = self.router.as_ref();
        router.map_or_else(|| self.node.http(), Router::http)
    }

    /// The process that has the port.
    pub fn pid(&self) -> u32 {
        let router = self.router.as_ref();
        router.map_or_else(|| self.node.pid(), Router::pid)
    }

    /// A client that asks from an address of its own.
    pub fn api_from(&self, from: Ipv4Addr) -> Api {
        Api::from(from, self.http())
    }

    /// A bucket of the largest plan, whose values may have a MiB.
    pub async fn large_bucket(&self) -> Bucket {
        let plan = serde_json::json!({"value_bytes": 1 << 20});
        let admin = self.node.admin_api();
        let change = admin.patch("/plans/business").json(&plan);
        change.unchecked().await.status(200);
        self.node.api().bucket_with(&[("plan", "business")]).await
    }
}
