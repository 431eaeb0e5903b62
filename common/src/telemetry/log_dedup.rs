//! Deduplication of log lines: the first of equal lines is written at once, and then one every
//! [`REPEAT_INTERVAL`], with the number of those that were suppressed.
//!
//! Operations that wait for another node, or for a person, are retried all the time, and log each
//! retry: the line is worth reading once. Lines of the levels below INFO aren't deduplicated.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Minimum interval at which a repeated line is written.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Number of different lines that are remembered before old ones are forgotten.
const MAX_REMEMBERED_LINES: usize = 1024;

/// Formatter of events that formats as `F` does, and suppresses repeated lines.
pub(super) struct DedupFormat<F> {
    format: F,
    lines: Mutex<RecentLines>,
}

impl<F> DedupFormat<F> {
    pub(super) fn new(format: F) -> Self {
        Self {
            format,
            lines: Mutex::default(),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for DedupFormat<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if *event.metadata().level() > Level::INFO {
            return self.format.format_event(context, writer, event);
        }
        match self.lines.lock().record(event_key(event), Instant::now()) {
            None => Ok(()),
            Some(0) => self.format.format_event(context, writer, event),
            Some(repeated) => {
                let mut line = String::new();
                let into = Writer::new(&mut line);
                self.format.format_event(context, into, event)?;
                writer.write_str(&with_count(&line, repeated))
            }
        }
    }
}

/// Appends to a line the number of those that were suppressed before it.
fn with_count(line: &str, repeated: u64) -> String {
    let line = line.trim_end();
    match line.strip_suffix('}').filter(|_| line.starts_with('{')) {
        Some(object) => format!("{object},\"repeated\":{repeated}}}\n"),
        None => format!("{line} repeated={repeated}\n"),
    }
}

/// Returns a hash that identifies an event by its source location, message and fields.
fn event_key(event: &Event<'_>) -> u64 {
    struct Fields(DefaultHasher);
    impl Write for Fields {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            // Never fails: it only feeds a hash.
            let _ = write!(self, "{}={value:?};", field.name());
        }
    }
    let metadata = event.metadata();
    let mut fields = Fields(DefaultHasher::new());
    fields.0.write(metadata.target().as_bytes());
    fields.0.write_u32(metadata.line().unwrap_or(0));
    event.record(&mut fields);
    fields.0.finish()
}

/// Lines that were written recently.
#[derive(Default)]
struct RecentLines(HashMap<u64, LogLine>);

struct LogLine {
    written_at: Instant,
    suppressed: u64,
}

impl RecentLines {
    /// Records a line with this key. `None` if it is suppressed; otherwise the number of lines that
    /// were suppressed before.
    fn record(&mut self, key: u64, now: Instant) -> Option<u64> {
        let is_old = |line: &LogLine| now.duration_since(line.written_at) >= REPEAT_INTERVAL;
        if self.0.len() >= MAX_REMEMBERED_LINES {
            self.0.retain(|_, line| !is_old(line));
        }
        match self.0.get_mut(&key) {
            Some(line) if !is_old(line) => {
                line.suppressed += 1;
                None
            }
            Some(line) => {
                line.written_at = now;
                Some(std::mem::take(&mut line.suppressed))
            }
            None => {
                let written = now;
                let line = LogLine {
                    written_at: written,
                    suppressed: 0,
                };
                self.0.insert(key, line);
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_repeated_line_is_written_once_and_then_at_intervals_with_a_count() {
        let (mut lines, begin) = (RecentLines::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(lines.record(1, at(0)), Some(0));
        assert_eq!(lines.record(2, at(0)), Some(0));
        for second in 1..10 {
            assert_eq!(lines.record(1, at(second)), None);
        }
        assert_eq!(lines.record(1, at(10)), Some(9));
        assert_eq!(lines.record(1, at(11)), None);
        assert_eq!(lines.record(2, at(60)), Some(0));
    }

    #[test]
    fn the_number_of_remembered_lines_is_bounded() {
        let (mut lines, begin) = (RecentLines::default(), Instant::now());
        for key in 0..2 * MAX_REMEMBERED_LINES as u64 {
            lines.record(
                key,
                begin + REPEAT_INTERVAL * u32::from(key >= MAX_REMEMBERED_LINES as u64),
            );
        }
        assert!(
            lines.0.len() <= MAX_REMEMBERED_LINES + 1,
            "{}",
            lines.0.len()
        );
    }

    #[test]
    fn the_count_is_a_field() {
        assert_eq!(
            with_count("INFO a: b c=1\n", 3),
            "INFO a: b c=1 repeated=3\n"
        );
        let line = with_count("{\"message\":\"b\"}\n", 3);
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["repeated"], 3);
    }

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_differ_in_a_field_are_all_written() {
        let output = Output::default();
        let writer = output.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(move || writer.clone())
            .map_event_format(DedupFormat::new)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            for round in 0..3 {
                tracing::warn!(node = "a:1", "away");
                tracing::warn!(round, "away");
                tracing::debug!("detail");
            }
        });
        let text = String::from_utf8(output.0.lock().clone()).unwrap();
        assert_eq!(text.matches("a:1").count(), 1, "{text}");
        assert_eq!(text.matches("round").count(), 3, "{text}");
        assert_eq!(text.matches("detail").count(), 3, "{text}");
    }
}
