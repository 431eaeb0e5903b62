//! CloudKV's router: one name, the nearest healthy node.
//!
//! It is stateless: it gets the topology from the nodes, and follows its changes. Any number of
//! routers may run side by side.
//!
//! ```text
//! run                starts, runs and stops a router
//! proxy              forwards a request
//! topology           regions, leaders, and which nodes fit a request
//! upstream           nodes, their health and round trips, connections to them
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
