//! Clients of a watched bucket in one region: what each watches, and on which way.

use std::net::SocketAddr;

use super::key_writer::{WATCHED_PREFIX, key_name};
use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::watch::WatchOptions;

/// Prefix of keys that the workload writes now and then.
const WORKLOAD_PREFIX: &str = "g1";

/// Addresses of a region for its clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct RegionPaths<'a> {
    /// Name of the region.
    pub name: &'a str,
    /// Addresses of its routers, at least one.
    pub routers: &'a [SocketAddr],
    /// Address of one of its nodes.
    pub node: SocketAddr,
    /// True if routers know other regions, too.
    pub is_one_of_several: bool,
}

impl RegionPaths<'_> {
    fn backwards(&self) -> Vec<SocketAddr> {
        self.routers.iter().rev().copied().collect()
    }

    /// Returns a client whose last key is that of most of them.
    fn plan(&self, name: &str, options: WatchOptions) -> ClientPlan {
        ClientPlan {
            name: format!("{name} in {}", self.name),
            last_key: format!("{WATCHED_PREFIX}last"),
            options,
        }
    }
}

/// A client to be started.
#[derive(Clone, Debug)]
pub(super) struct ClientPlan {
    /// What it watches and how, for reports.
    pub name: String,
    /// Key that it watches, and that is written last.
    pub last_key: String,
    /// Options of the client.
    pub options: WatchOptions,
}

/// Returns the clients of a region, fewer if it is one of several.
pub(super) fn client_plans(bucket: &Bucket, paths: &RegionPaths<'_>) -> Vec<ClientPlan> {
    let mut plans: Vec<ClientPlan> = first_plans(bucket, paths).into();
    if !paths.is_one_of_several {
        plans.extend(further_plans(bucket, paths));
    }
    plans
}

/// Returns the clients of each region.
fn first_plans(bucket: &Bucket, paths: &RegionPaths<'_>) -> [ClientPlan; 5] {
    let through = |addresses: &[SocketAddr]| WatchOptions::new(addresses, bucket);
    [
        paths.plan(
            "all keys with initial, over HTTP/2",
            WatchOptions {
                is_initial: true,
                is_http2: true,
                ..through(&paths.backwards())
            },
        ),
        paths.plan(
            "all keys with values, listed",
            WatchOptions {
                has_values: true,
                headers: own_region(paths),
                ..through(&paths.routers[..1])
            },
        ),
        paths.plan(
            "a prefix with initial",
            WatchOptions {
                prefix: WATCHED_PREFIX.to_owned(),
                is_initial: true,
                ..through(paths.routers)
            },
        ),
        ClientPlan {
            last_key: key_name(0),
            ..paths.plan("one key", one_key(through(paths.routers)))
        },
        paths.plan(
            "all keys with initial and values, at a node",
            WatchOptions {
                is_initial: true,
                has_values: true,
                ..through(&[paths.node])
            },
        ),
    ]
}

/// Returns further clients, of the only region.
fn further_plans(bucket: &Bucket, paths: &RegionPaths<'_>) -> [ClientPlan; 3] {
    let through = |addresses: &[SocketAddr]| WatchOptions::new(addresses, bucket);
    [
        paths.plan(
            "all keys with initial and values",
            WatchOptions {
                is_initial: true,
                has_values: true,
                ..through(paths.routers)
            },
        ),
        paths.plan(
            "all keys, listed, over HTTP/2",
            WatchOptions {
                is_http2: true,
                ..through(&paths.backwards())
            },
        ),
        ClientPlan {
            last_key: format!("{WORKLOAD_PREFIX}/last"),
            ..paths.plan(
                "a prefix of the workload, with values, listed",
                WatchOptions {
                    prefix: WORKLOAD_PREFIX.to_owned(),
                    has_values: true,
                    ..through(&paths.backwards())
                },
            )
        },
    ]
}

/// Returns the options of a client of one key.
fn one_key(options: WatchOptions) -> WatchOptions {
    WatchOptions {
        key: Some(key_name(0)),
        is_initial: true,
        has_values: true,
        is_http2: true,
        ..options
    }
}

/// Returns the headers by which a router serves this region alone: a client that lists the bucket
/// itself must list it where it watches it.
fn own_region(paths: &RegionPaths<'_>) -> Vec<(String, String)> {
    let host = format!("api.{}.cloudkv.io", paths.name);
    let is_needed = paths.is_one_of_several;
    is_needed
        .then(|| ("host".to_owned(), host))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_watches_its_last_key_and_is_told_apart() {
        let bucket = Bucket {
            id: "b".into(),
            account: String::new(),
            mode: String::new(),
            plan: String::new(),
        };
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let routers = [address(1), address(2)];
        for is_one_of_several in [false, true] {
            let paths = RegionPaths {
                name: "eu",
                routers: &routers,
                node: address(3),
                is_one_of_several,
            };
            let plans = client_plans(&bucket, &paths);
            for plan in &plans {
                let only = plan.options.key.as_ref();
                assert!(only.is_none_or(|only| *only == plan.last_key), "{plan:?}");
                assert!(plan.last_key.starts_with(&plan.options.prefix), "{plan:?}");
                // Lists of another region may lack what the stream has told.
                let lists = !plan.options.is_initial && is_one_of_several;
                assert_eq!(lists, !plan.options.headers.is_empty(), "{plan:?}");
            }
            let mut names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), plans.len());
            assert!(plans.iter().any(|plan| plan.options.is_http2));
            let is_at_node = |plan: &ClientPlan| plan.options.addresses == [address(3)];
            assert!(plans.iter().any(is_at_node));
        }
    }
}
