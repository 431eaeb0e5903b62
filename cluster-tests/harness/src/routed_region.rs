//! A region of three nodes behind a router.

use super::http::ApiClient;
use super::region::Region;
use super::router::Router;

/// A region of three nodes, and a router in front of it.
#[derive(Debug)]
pub struct RoutedRegion {
    /// The router.
    pub router: Router,
    /// The nodes.
    pub region: Region,
}

impl RoutedRegion {
    /// Starts the nodes, and then the router.
    pub async fn start() -> Self {
        let region = Region::start().await;
        let router = Router::start(&region.rpc_addresses(0..3)).await;
        Self { router, region }
    }

    /// Returns a client of each node, and one of the router: of a key's shard, one of the nodes
    /// leads, and the others forward.
    pub fn clients(&self) -> [ApiClient; 4] {
        let [first, second, third] = [0, 1, 2].map(|seat| self.region.api(seat));
        [first, second, third, self.router.api()]
    }

    /// Returns each client with the next one, which reads what the first has written.
    pub fn client_pairs(&self) -> [(ApiClient, ApiClient); 4] {
        let clients = self.clients();
        [0, 1, 2, 3].map(|at| (clients[at].clone(), clients[(at + 1) % 4].clone()))
    }
}
