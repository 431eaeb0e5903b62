//! Parses server-sent events, as the HTML standard's section 9.2.6 ("Interpreting an event stream")
//! says.
//!
//! To the letter: the buffer of the last event ID is empty when a stream begins, and each blank
//! line makes it the last event ID. So a client that reconnects forgets its position with a blank
//! line before the first `id`.

use std::time::Duration;

/// An event that a browser would dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSentEvent {
    /// Type: the `event` field, or `message` without one.
    pub name: String,
    /// Lines of the `data` fields.
    pub data: String,
    /// Last event ID: where a client goes on.
    pub last_event_id: String,
    /// True if the event itself has an `id` field.
    pub has_id: bool,
}

/// Part of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SseItem {
    /// An event.
    Event(ServerSentEvent),
    /// A block without data, which sets the last event ID alone: to that of the stream's last
    /// `id`, or to nothing.
    Position(String),
    /// A comment.
    Comment(String),
    /// Time after which the client is to reconnect.
    Retry(Duration),
}

/// Parses the body of an event stream, which comes in any pieces.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    /// True if a line has ended: a byte order mark may come before that only.
    has_lines: bool,
    /// True if the byte before was a carriage return: a line feed belongs to it.
    is_after_return: bool,
    name: String,
    data: String,
    id: String,
    has_id: bool,
    /// True if a blank line has come.
    has_blocks: bool,
}

impl EventParser {
    /// Creates the parser of a new stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether a block has begun and not ended: it is lost if the stream ends here.
    pub fn is_within_block(&self) -> bool {
        let is_empty = self.name.is_empty() && self.data.is_empty() && self.line.is_empty();
        !is_empty || self.has_id
    }

    /// Parses more bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<SseItem> {
        let mut items = vec![];
        for byte in bytes {
            let ends_return = self.is_after_return && *byte == b'\n';
            self.is_after_return = *byte == b'\r';
            match byte {
                b'\n' if ends_return => {}
                b'\n' | b'\r' => items.extend(self.end_line()),
                byte => self.line.push(*byte),
            }
        }
        items
    }

    fn end_line(&mut self) -> Option<SseItem> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let is_first = !std::mem::replace(&mut self.has_lines, true);
        let line = match line.strip_prefix('\u{feff}') {
            Some(rest) if is_first => rest,
            _ => &line[..],
        };
        if line.is_empty() {
            return self.end_block();
        }
        if let Some(comment) = line.strip_prefix(':') {
            return Some(SseItem::Comment(without_space(comment).to_owned()));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        self.field(field, without_space(value))
    }

    fn field(&mut self, field: &str, value: &str) -> Option<SseItem> {
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => {
                value.clone_into(&mut self.id);
                self.has_id = true;
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                let millis = value.parse().ok()?;
                return Some(SseItem::Retry(Duration::from_millis(millis)));
            }
            // Unknown fields are ignored.
            _ => {}
        }
        None
    }

    /// Dispatches the event that a blank line ends.
    fn end_block(&mut self) -> Option<SseItem> {
        let is_first = !std::mem::replace(&mut self.has_blocks, true);
        let has_id = std::mem::take(&mut self.has_id);
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return (has_id || is_first).then(|| SseItem::Position(self.id.clone()));
        }
        // The line feed after the last line.
        data.pop();
        Some(SseItem::Event(ServerSentEvent {
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
            last_event_id: self.id.clone(),
            has_id,
        }))
    }
}

fn without_space(value: &str) -> &str {
    value.strip_prefix(' ').unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<SseItem> {
        EventParser::new().push(text.as_bytes())
    }

    fn event(name: &str, data: &str, id: &str, has_id: bool) -> SseItem {
        SseItem::Event(ServerSentEvent {
            name: name.to_owned(),
            data: data.to_owned(),
            last_event_id: id.to_owned(),
            has_id,
        })
    }

    fn position(id: &str) -> SseItem {
        SseItem::Position(id.to_owned())
    }

    fn comment(text: &str) -> SseItem {
        SseItem::Comment(text.to_owned())
    }

    /// The examples of the standard.
    #[test]
    fn the_examples_of_the_standard_are_parsed() {
        let stocks = "data: YHOO\ndata: +2\ndata: 10\n\n";
        assert_eq!(parse(stocks), [event("message", "YHOO\n+2\n10", "", false)]);
        let blocks = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n\
            data:  third event\n";
        assert_eq!(
            parse(blocks),
            [
                comment("test stream"),
                position(""),
                event("message", "first event", "1", true),
                event("message", "second event", "", true),
            ],
            "the third has no blank line behind it"
        );
        let empty = "data\n\ndata\ndata\n\ndata:";
        assert_eq!(
            parse(empty),
            [
                event("message", "", "", false),
                event("message", "\n", "", false)
            ]
        );
        let spaces = "data:test\n\ndata: test\n\n";
        assert_eq!(
            parse(spaces),
            [
                event("message", "test", "", false),
                event("message", "test", "", false)
            ]
        );
    }

    #[test]
    fn an_id_stays_until_another_comes() {
        let text = "id: 1\nevent: put\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\nid: 3";
        let mut parser = EventParser::new();
        assert_eq!(
            parser.push(text.as_bytes()),
            [
                event("put", "a", "1", true),
                event("message", "b", "1", false),
                position("2"),
                event("message", "c", "2", false),
            ]
        );
        assert!(parser.push(b"\n").is_empty() && parser.is_within_block());
        assert_eq!(parser.push(b"\n"), [position("3")], "with the blank line");
        assert!(!parser.is_within_block());
    }

    #[test]
    fn a_blank_line_before_the_first_id_removes_that_of_the_stream_before() {
        let mut parser = EventParser::new();
        assert_eq!(
            parser.push(b"retry: 2000\n:x\n"),
            [SseItem::Retry(Duration::from_secs(2)), comment("x")],
            "retry needs no blank line"
        );
        assert_eq!(parser.push(b"\n"), [position("")]);
        assert!(parser.push(b"\n:y\n\n").len() == 1, "only the first one");
    }

    #[test]
    fn retry_takes_digits_only_and_an_id_no_null() {
        let text = "retry: 15\nretry: 1s\nretry:\nretry: -1\nid: a\0b\ndata: d\n\n";
        assert_eq!(
            parse(text),
            [
                SseItem::Retry(Duration::from_millis(15)),
                event("message", "d", "", false)
            ]
        );
    }

    #[test]
    fn unknown_fields_and_an_event_without_data_are_ignored() {
        let without_data = parse("Data: x\nevent: put\nfoo: bar\n\n");
        assert_eq!(without_data, [position("")]);
        assert_eq!(
            parse("event: put\n\ndata: x\n\n"),
            [position(""), event("message", "x", "", false)],
            "the type goes with its block"
        );
    }

    #[test]
    fn lines_end_in_three_ways_and_pieces_may_be_cut_anywhere() {
        let expected = [
            comment("hi: there"),
            event("put", "a\u{e9}: b\nc", "7", true),
            event("message", "d", "7", false),
        ];
        let lines = [
            "\u{feff}: hi: there",
            "event: put",
            "id: 7",
            "data: a\u{e9}: b",
            "data: c",
            "",
            "data: d",
            "",
            "",
        ];
        for ending in ["\n", "\r\n", "\r"] {
            let text = lines.join(ending);
            for size in 1..text.len() {
                let mut parser = EventParser::new();
                let pieces = text.as_bytes().chunks(size);
                let items: Vec<SseItem> = pieces.flat_map(|piece| parser.push(piece)).collect();
                assert_eq!(items, expected, "{ending:?} in pieces of {size}");
            }
        }
    }
}
