//! CloudKV's router: one name, the nearest healthy node.
//!
//! It is stateless: it learns from the nodes where everything is, and follows them. Any number of
//! routers may stand side by side.
//!
//! ```text
//! run                puts a router together, runs it, stops it
//! proxy              one request on its way
//! upstream           connections to nodes
//! topology           where everything is, who leads, who answers, how far away
//! hosts tls config
//! ```

pub mod config;
pub mod health;
pub mod hosts;
pub mod observe;
pub mod proxy;
pub mod run;
pub mod tls;
pub mod topology;
pub mod upstream;
