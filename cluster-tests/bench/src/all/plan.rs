//! Which cells are measured, and for how long.

use super::args::Args;
use crate::servers::Tuning;
use serde::Serialize;

/// Parameters that vary from cell to cell.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Plan {
    /// Numbers of connections.
    pub connections: Vec<usize>,
    /// Bytes of the values.
    pub value_sizes: Vec<usize>,
    /// Seconds of measurement for each number.
    pub seconds: f64,
    /// Seconds before each measurement.
    pub warmup: f64,
    /// Number of client threads.
    pub threads: usize,
    /// Configuration of webdis.
    pub webdis: Tuning,
}

impl Plan {
    /// Derives the plan from the options.
    pub(super) fn new(args: &Args) -> Self {
        let (connections, value_sizes) = if args.quick {
            (vec![1, 64], vec![100])
        } else {
            (vec![1, 16, 64, 256], vec![100, 4096])
        };
        let seconds = if args.quick {
            args.seconds.min(1.0)
        } else {
            args.seconds
        };
        let (threads, webdis) = (args.threads, args.webdis);
        Self {
            connections,
            value_sizes,
            seconds,
            warmup: 1.0,
            threads,
            webdis,
        }
    }
}
