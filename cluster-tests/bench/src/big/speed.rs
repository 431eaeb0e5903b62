//! Throughput over few keys and over all of them, on the same node.
//!
//! Few keys are measured twice: when there are no others, and among all the others, alternating
//! with measurements over all. The faster of the two is the baseline for "all keys".

use crate::load_keys::KEY_DIGITS;
use crate::process::run_load;
use crate::report::{Table, median};
use crate::servers::Endpoint;
use crate::workload::Operation;
use anyhow::{Context, Result};
use serde::Serialize;

/// Number of keys that count as few.
pub(super) const FEW_KEYS: u64 = 10_000;
const CONNECTION_COUNT: usize = 64;
const ROUNDS: usize = 3;

/// Throughput of both operations.
#[derive(Debug, Default, Serialize)]
pub(super) struct Speed {
    /// Throughput of reads.
    pub get: Rates,
    /// Throughput of writes.
    pub put: Rates,
    /// Failed requests in all measurements.
    pub errors: u64,
}

/// Median rates, in requests per second.
#[derive(Debug, Default, Serialize)]
pub(super) struct Rates {
    /// Over few keys when there are no others.
    pub few_alone: f64,
    /// Over the same keys among all.
    pub few_among_all: f64,
    /// Over all keys.
    pub all: f64,
}

impl Rates {
    /// Ratio of the rate of few keys to that of all.
    pub(super) fn slowdown(&self) -> f64 {
        self.few_alone.max(self.few_among_all) / self.all
    }
}

impl Speed {
    /// Measures few keys on a node that has no others.
    pub(super) async fn measure_few_alone(
        &mut self,
        endpoint: &Endpoint,
        seconds: f64,
    ) -> Result<()> {
        let (mut get, mut put) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            get.push(
                self.measure(endpoint, Operation::Get, FEW_KEYS, seconds)
                    .await?,
            );
            put.push(
                self.measure(endpoint, Operation::Put, FEW_KEYS, seconds)
                    .await?,
            );
        }
        self.get.few_alone = median(&mut get);
        self.put.few_alone = median(&mut put);
        Ok(())
    }

    /// Measures all keys, and few among them, in turn.
    pub(super) async fn measure_all(
        &mut self,
        endpoint: &Endpoint,
        keys: u64,
        seconds: f64,
    ) -> Result<()> {
        for operation in [Operation::Get, Operation::Put] {
            let (mut few, mut all) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                few.push(self.measure(endpoint, operation, FEW_KEYS, seconds).await?);
                all.push(self.measure(endpoint, operation, keys, seconds).await?);
            }
            let rates = match operation {
                Operation::Get => &mut self.get,
                Operation::Put => &mut self.put,
            };
            (rates.few_among_all, rates.all) = (median(&mut few), median(&mut all));
        }
        Ok(())
    }

    async fn measure(
        &mut self,
        endpoint: &Endpoint,
        operation: Operation,
        keys: u64,
        seconds: f64,
    ) -> Result<f64> {
        let mut load = endpoint
            .load(operation, 100)
            .context("endpoint without 100 B values")?;
        (load.digits, load.keys, load.connections) = (KEY_DIGITS, keys, CONNECTION_COUNT);
        load.seconds = seconds;
        let outcome = run_load(&load).await?;
        let rate = outcome.per_second;
        eprintln!("{} over {keys} keys: {rate:.0}/s", operation.method());
        outcome.errors.print();
        self.errors += outcome.errors.total();
        Ok(rate)
    }

    /// Builds the table of rates.
    pub(super) fn table(&self) -> Table {
        let head = [
            "per second, 64 connections",
            "10 thousand alone",
            "among all",
            "all keys",
        ];
        let mut table = Table::new("Throughput by number of keys", &head);
        for (name, rates) in [("GET", &self.get), ("PUT", &self.put)] {
            let numbers = [rates.few_alone, rates.few_among_all, rates.all];
            let numbers = numbers.map(|number| format!("{number:.0}"));
            table.add(std::iter::once(name.to_owned()).chain(numbers).collect());
        }
        table
    }
}
