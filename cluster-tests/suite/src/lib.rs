//! Tests of nodes, regions, clusters and routers from outside, in `tests/`; here is what only they
//! need.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod postman;
