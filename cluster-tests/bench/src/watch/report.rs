//! Results of a run, and the report as Markdown.

use super::phase::Phase;
use crate::procfs::Machine;
use crate::report::{Table, render};
use serde::Serialize;

/// Number of watchers below which their memory can't be told from chance.
const MIN_WATCHERS_FOR_MEMORY: usize = 10;

/// The same writes with watchers, and without.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    /// Without watchers.
    pub unwatched: Phase,
    /// With watchers.
    pub watched: Phase,
}

impl Comparison {
    /// Returns the processor time of all nodes for an event, in microseconds: all of it, and that
    /// beyond the same writes without watchers.
    fn node_cpu_us(&self) -> (f64, f64) {
        let events = self.watched.events.max(1) as f64;
        let (all, writes) = (
            self.watched.node_cpu_seconds,
            self.unwatched.node_cpu_seconds,
        );
        // The writes may have been a few more, or less.
        let share = self.watched.writes as f64 / self.unwatched.writes.max(1) as f64;
        let beyond = all - writes * share;
        (all * 1e6 / events, beyond * 1e6 / events)
    }

    /// Returns the memory of the watched node for a watcher, in KiB: before the writes, and after
    /// them.
    fn memory_kib(&self) -> (f64, f64) {
        let Phase {
            memory_before,
            memory_connected,
            memory_after,
            ..
        } = &self.watched;
        let watchers = self.watched.watchers.max(1) as f64;
        let before = memory_before.rss as f64;
        let each = |rss: u64| (rss as f64 - before) / watchers / 1024.0;
        (each(memory_connected.rss), each(memory_after.rss))
    }
}

/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine of the run.
    pub machine: Machine,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// Each rate of writes.
    pub comparisons: Vec<Comparison>,
}

/// Renders all results as Markdown.
pub(super) fn markdown(report: &Report) -> String {
    let Machine { cpu, cores, .. } = &report.machine;
    let mut text = format!(
        "## Watchers of a bucket\n\n{cpu}, {cores} cores; three nodes, all watchers at one of \
         them; {} s a number. Delay: from just before a\nwrite's request is sent until its event \
         has arrived. CPU: user and system time of all nodes, in all and beyond\nthe same writes \
         without watchers. Memory: RSS of the watched node.\n\n",
        report.seconds
    );
    let tables = [
        delay_table(report),
        cost_table(report),
        memory_table(report),
    ];
    text.push_str(&render(&tables, &[]));
    text
}

fn delay_table(report: &Report) -> Table {
    let head = [
        "watchers",
        "writes/s",
        "written/s",
        "PUT p50 ms",
        "PUT p99 ms",
        "events",
        "delay p50 ms",
        "delay p99 ms",
        "delay max ms",
    ];
    let mut table = Table::new("Delay", &head);
    let phases = report.comparisons.iter();
    for phase in phases.flat_map(|both| [&both.unwatched, &both.watched]) {
        let millis = |micros: f64| format!("{:.2}", micros / 1000.0);
        let delay = |micros: f64| {
            if phase.watchers == 0 {
                "-".to_owned()
            } else {
                millis(micros)
            }
        };
        table.add(vec![
            phase.watchers.to_string(),
            format!("{:.0}", phase.rate),
            format!("{:.0}", phase.written_per_second),
            millis(phase.put_us.p50),
            millis(phase.put_us.p99),
            phase.events.to_string(),
            delay(phase.delay_us.p50),
            delay(phase.delay_us.p99),
            delay(phase.delay_us.max),
        ]);
    }
    table
}

fn cost_table(report: &Report) -> Table {
    let head = [
        "watchers",
        "writes/s",
        "CPU µs an event",
        "beyond the writes",
        "client CPU µs",
    ];
    let mut table = Table::new("Processor time", &head);
    for both in &report.comparisons {
        let (all, beyond) = both.node_cpu_us();
        let watched = &both.watched;
        let client = watched.client_cpu_seconds * 1e6 / watched.events.max(1) as f64;
        table.add(vec![
            watched.watchers.to_string(),
            format!("{:.0}", watched.rate),
            format!("{all:.2}"),
            format!("{beyond:.2}"),
            format!("{client:.2}"),
        ]);
    }
    table
}

fn memory_table(report: &Report) -> Table {
    let head = [
        "watchers",
        "before MB",
        "connected MB",
        "after MB",
        "KiB each, connected",
        "KiB each, after",
    ];
    let mut table = Table::new("Memory of the watched node", &head);
    let has_many = |both: &&Comparison| both.watched.watchers >= MIN_WATCHERS_FOR_MEMORY;
    for both in report.comparisons.iter().filter(has_many) {
        let watched = &both.watched;
        let (connected, after) = both.memory_kib();
        let memory = [
            watched.memory_before,
            watched.memory_connected,
            watched.memory_after,
        ];
        let mut row = vec![watched.watchers.to_string()];
        row.extend(memory.map(|memory| format!("{:.1}", memory.rss as f64 / 1e6)));
        row.extend([connected, after].map(|kib| format!("{kib:.1}")));
        table.add(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Latency;
    use crate::procfs::MemoryUsage;

    fn phase(watchers: usize, writes: u64, node_cpu_seconds: f64) -> Phase {
        let memory = |rss| MemoryUsage {
            rss,
            ..MemoryUsage::default()
        };
        Phase {
            rate: 100.0,
            watchers,
            written_per_second: 100.0,
            writes,
            put_us: Latency::default(),
            events: writes * watchers as u64,
            delay_us: Latency::default(),
            node_cpu_seconds,
            client_cpu_seconds: 0.0,
            memory_before: memory(1 << 20),
            memory_connected: memory(2 << 20),
            memory_after: memory(3 << 20),
        }
    }

    #[test]
    fn the_cost_of_an_event_is_what_is_beyond_the_writes() {
        let both = Comparison {
            unwatched: phase(0, 1000, 1.0),
            watched: phase(8, 2000, 3.6),
        };
        let (all, beyond) = both.node_cpu_us();
        assert!((all - 225.0).abs() < 1e-6, "{all}");
        assert!((beyond - 100.0).abs() < 1e-6, "{beyond}");
        assert_eq!(both.memory_kib(), (128.0, 256.0));
    }
}
