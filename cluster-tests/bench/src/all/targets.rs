//! Targets of the node, which `cloudkv-bench all` checks.

use super::cells::{Cells, Load};
use crate::engine::LoadResult;
use crate::procfs::MemoryUsage;
use crate::report::{Check, Target};
use crate::servers::ServerKind;
use crate::workload::Operation;

const GET_64: Load = load(Operation::Get, 64);
const PUT_64: Load = load(Operation::Put, 64);
const PUT_1: Load = load(Operation::Put, 1);

const fn load(operation: Operation, connections: usize) -> Load {
    Load {
        operation,
        value_size: 100,
        connections,
    }
}

/// Checks all targets against medians over the rounds.
pub(super) fn checks(cells: &Cells, node_fresh: Option<MemoryUsage>) -> Vec<Check> {
    let rate = |server, load| cells.median(server, load, |outcome| outcome.per_second);
    let against = |own: Load, other: ServerKind, others: Load| {
        Some(rate(ServerKind::Node, own)? / rate(other, others)?)
    };
    let cpu = |load| {
        let both = |outcome: &LoadResult| outcome.client_cpu_us + outcome.server_cpu_us;
        cells.median(ServerKind::Node, load, both)
    };
    let times = |what: &str, value, least| Check::new(what, value, "x", Target::AtLeast(least));
    let micros = |what: &str, value, most| Check::new(what, value, "µs", Target::AtMost(most));
    vec![
        times(
            "GET, 64 connections: node / bare hyper GET",
            against(GET_64, ServerKind::Hyper, GET_64),
            0.8,
        ),
        times(
            "PUT, 64 connections: node / webdis + redis",
            against(PUT_64, ServerKind::Webdis, PUT_64),
            1.6,
        ),
        times(
            "PUT, 64 connections: node / bare hyper PUT",
            against(PUT_64, ServerKind::Hyper, PUT_64),
            0.5,
        ),
        times(
            "PUT, 64 connections: node / bare hyper GET",
            against(PUT_64, ServerKind::Hyper, GET_64),
            0.5,
        ),
        times(
            "PUT, 1 connection: node / webdis + redis",
            against(PUT_1, ServerKind::Webdis, PUT_1),
            1.5,
        ),
        micros(
            "processor time a GET, 64 connections, with client",
            cpu(GET_64),
            20.0,
        ),
        micros(
            "processor time a PUT, 64 connections, with client",
            cpu(PUT_64),
            40.0,
        ),
        Check::new(
            "memory of a fresh node (RSS)",
            node_fresh.map(|memory| memory.rss as f64 / 1e6),
            "MB",
            Target::AtMost(60.0),
        ),
    ]
}
