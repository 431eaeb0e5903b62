//! Frames of `admin status --watch`: the time, and the page or the reason for which there is none.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;

use crate::admin::client::AdminCallError;

/// Builds the frames, and remembers since when there is no page.
pub(super) struct WatchFrames {
    /// Set if a frame takes the place of the one before, so that it must be complete.
    replaces_last: bool,
    outage: Option<Outage>,
}

/// Failures without a page between them.
struct Outage {
    since: SystemTime,
    last_error: String,
}

impl WatchFrames {
    /// Creates the builder. On a terminal, each frame replaces the one before.
    pub(super) fn new(is_terminal: bool) -> Self {
        Self {
            replaces_last: is_terminal,
            outage: None,
        }
    }

    /// Builds the next frame, with a newline at the end of each line.
    pub(super) fn build(
        &mut self,
        now: SystemTime,
        page: Result<String, AdminCallError>,
    ) -> String {
        let time = format_rfc3339_seconds(now);
        match page {
            Ok(page) => {
                self.outage = None;
                format!("{time}\n{page}")
            }
            Err(error) => format!("{time}\n{}\n", self.record_failure(now, &error)),
        }
    }

    /// Records a failure, and describes it with its beginning. The advice comes once, unless each
    /// frame replaces the one before.
    fn record_failure(&mut self, now: SystemTime, error: &AdminCallError) -> String {
        let text = error.to_string();
        let last = self.outage.take();
        let is_known = last.as_ref().is_some_and(|last| last.last_error == text);
        let shown = if is_known && !self.replaces_last {
            error.without_advice()
        } else {
            text.clone()
        };
        let since = last.map_or(now, |last| last.since);
        self.outage = Some(Outage {
            since,
            last_error: text,
        });
        format!("no status since {}: {shown}", format_rfc3339_seconds(since))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::{Duration, UNIX_EPOCH};

    use cloudkv_common::admin::ClientError;

    use super::*;
    use crate::config::AdminTarget;

    fn refused() -> Result<String, AdminCallError> {
        let error = ClientError::Connect {
            target: AdminTarget::parse("127.0.0.1:9").unwrap(),
            source: io::Error::from(io::ErrorKind::ConnectionRefused),
        };
        Err(error.into())
    }

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn each_frame_has_its_time_and_a_failure_its_beginning_and_its_advice_once() {
        let mut frames = WatchFrames::new(false);
        let page = frames.build(at(0), Ok("serving\n".to_owned()));
        assert_eq!(page, "1970-01-01T00:00:00Z\nserving\n");
        let first = frames.build(at(2), refused());
        let begins = "1970-01-01T00:00:02Z\nno status since 1970-01-01T00:00:02Z: connect to ";
        assert!(first.starts_with(begins), "{first}");
        assert!(first.contains("Does the node run"), "{first}");
        let second = frames.build(at(4), refused());
        let begins = "1970-01-01T00:00:04Z\nno status since 1970-01-01T00:00:02Z: connect to ";
        assert!(second.starts_with(begins), "{second}");
        assert!(
            second.ends_with('\n') && !second.contains("Does the node run"),
            "{second}"
        );
        // The next outage is another one.
        frames.build(at(6), Ok(String::new()));
        let third = frames.build(at(8), refused());
        assert!(
            third.contains("since 1970-01-01T00:00:08Z") && third.contains("Does the node run"),
            "{third}"
        );
    }

    #[test]
    fn on_a_terminal_each_frame_has_the_advice() {
        let mut frames = WatchFrames::new(true);
        for second in [2, 4] {
            let frame = frames.build(at(second), refused());
            assert_eq!(frame.matches("Does the node run").count(), 1, "{frame}");
        }
    }
}
