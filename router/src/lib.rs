//! CloudKV's router: one name, the nearest healthy node.
//!
//! It is stateless: it gets the topology from the nodes, and follows its changes. Any number of
//! routers may run side by side.
//!
//! ```text
//! run                starts, runs and stops a router
//! proxy              forwards a request
//! upstream           connections to nodes
//! topology           regions, nodes, leaders, health and round trips
//! hosts tls config
//! ```

pub mod config;
pub mod health;
mod hosts;
mod proxy;
pub mod run;
mod status;
mod tls;
mod topology;
mod upstream;
