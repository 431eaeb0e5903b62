//! Splits a body into lines, whatever chunks it comes in.
//!
//! Invariant: no more than a line of the maximum length and one chunk are kept. A longer line is
//! told once, as soon as it is, and its rest is skipped.

use bytes::Bytes;

/// Line of a body, with its number from 1 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its newline.
    Complete {
        /// Number of the line.
        number: u64,
        /// Content of the line.
        content: Bytes,
    },
    /// A line that is longer than the maximum.
    TooLong {
        /// Number of the line.
        number: u64,
    },
}

/// Splitter of a body into lines.
#[derive(Debug)]
pub(super) struct LineSplitter {
    /// Maximum length of a line, without its newline, in bytes.
    max: usize,
    /// Bytes of the last chunk that weren't split yet.
    chunk: Bytes,
    /// Beginning of a line whose end is not in an earlier chunk.
    beginning: Vec<u8>,
    /// True while the rest of a line that is too long is skipped.
    is_skipping: bool,
    /// Number of the last line that was told.
    number: u64,
}

impl LineSplitter {
    /// Creates a splitter for lines of at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            chunk: Bytes::new(),
            beginning: Vec::new(),
            is_skipping: false,
            number: 0,
        }
    }

    /// Takes the next chunk of the body, once there is no complete line any more.
    pub(super) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "a chunk was not split yet");
        self.chunk = chunk;
    }

    /// Returns the next line; `None` if its end is in a later chunk.
    pub(super) fn next_line(&mut self) -> Option<Line> {
        loop {
            let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') else {
                return self.keep_beginning();
            };
            let mut head = self.chunk.split_to(end + 1);
            if std::mem::take(&mut self.is_skipping) {
                continue;
            }
            head.truncate(end);
            if self.beginning.len() + head.len() > self.max {
                self.beginning = Vec::new();
                return Some(self.too_long());
            }
            let content = if self.beginning.is_empty() {
                head
            } else {
                self.beginning.extend_from_slice(&head);
                Bytes::from(std::mem::take(&mut self.beginning))
            };
            return Some(self.complete(content));
        }
    }

    /// Returns the last line of the body, if it has no newline.
    pub(super) fn finish(&mut self) -> Option<Line> {
        if self.beginning.is_empty() {
            return None;
        }
        let content = Bytes::from(std::mem::take(&mut self.beginning));
        Some(self.complete(content))
    }

    /// Keeps the rest of the chunk, in which no line ends.
    fn keep_beginning(&mut self) -> Option<Line> {
        let chunk = std::mem::take(&mut self.chunk);
        if self.is_skipping {
            return None;
        }
        if self.beginning.len() + chunk.len() > self.max {
            self.beginning = Vec::new();
            self.is_skipping = true;
            return Some(self.too_long());
        }
        self.beginning.extend_from_slice(&chunk);
        None
    }

    fn complete(&mut self, content: Bytes) -> Line {
        self.number += 1;
        Line::Complete {
            number: self.number,
            content,
        }
    }

    fn too_long(&mut self) -> Line {
        self.number += 1;
        Line::TooLong {
            number: self.number,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 8;

    /// Splits a body that comes in these chunks.
    fn split(chunks: &[&[u8]]) -> Vec<Line> {
        let mut splitter = LineSplitter::new(MAX);
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(Bytes::copy_from_slice(chunk));
            while let Some(line) = splitter.next_line() {
                lines.push(line);
            }
            assert!(splitter.beginning.len() <= MAX);
        }
        lines.extend(splitter.finish());
        lines
    }

    /// Splits a body as a whole.
    fn expected(body: &[u8]) -> Vec<Line> {
        let mut parts: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
        if parts.last().is_some_and(|last| last.is_empty()) {
            parts.pop();
        }
        let lines = (1..).zip(parts).map(|(number, part)| {
            if part.len() > MAX {
                Line::TooLong { number }
            } else {
                let content = Bytes::copy_from_slice(part);
                Line::Complete { number, content }
            }
        });
        lines.collect()
    }

    fn complete(number: u64, content: &'static str) -> Line {
        Line::Complete {
            number,
            content: Bytes::from_static(content.as_bytes()),
        }
    }

    #[test]
    fn lines_end_at_newlines_or_at_the_end() {
        assert!(split(&[]).is_empty());
        assert_eq!(split(&[b"a\n"]), [complete(1, "a")]);
        assert_eq!(
            split(&[b"a\n\nb"]),
            [complete(1, "a"), complete(2, ""), complete(3, "b")]
        );
        assert_eq!(
            split(&[b"a", b"b\r\nc", b"\n"]),
            [complete(1, "ab\r"), complete(2, "c")]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_told_once_and_skipped() {
        let long = Line::TooLong { number: 1 };
        let rest = [long.clone(), complete(2, "b")];
        assert_eq!(split(&[b"123456789\nb"]), rest);
        assert_eq!(split(&[b"12345678", b"9", b"10", b"11\nb"]), rest);
        assert_eq!(split(&[b"12345678", b"9\nb"]), rest);
        assert_eq!(split(&[b"12345678", b"9"]), [long]);
        assert_eq!(split(&[b"12345678", b"\n"]), [complete(1, "12345678")]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_chunks(
            chunks in vec(vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..12), 0..12)
        ) {
            let body = chunks.concat();
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(split(&chunks), expected(&body));
        }
    }
}
