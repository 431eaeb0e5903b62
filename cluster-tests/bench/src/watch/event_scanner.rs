//! Finds in an event stream what the measurement needs: the keys of its events.
//!
//! It reads as little as it can, where a client would decode all fields: on two cores the client's
//! own time counts.

/// Part of an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scanned {
    /// From here on the stream has all that is written.
    Ready,
    /// Events may be missing.
    Reset,
    /// An event of the key with this number.
    Key(u64),
}

/// Scans the body of an event stream, which comes in any pieces.
#[derive(Debug, Default)]
pub(super) struct EventScanner {
    /// Line that hasn't ended.
    line: Vec<u8>,
}

impl EventScanner {
    /// Scans more bytes.
    pub(super) fn push(&mut self, bytes: &[u8], mut found: impl FnMut(Scanned)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = &after[1..];
            let scanned = if self.line.is_empty() {
                scan_line(line)
            } else {
                self.line.extend_from_slice(line);
                let scanned = scan_line(&self.line);
                self.line.clear();
                scanned
            };
            if let Some(scanned) = scanned {
                found(scanned);
            }
        }
        self.line.extend_from_slice(rest);
    }
}

fn scan_line(line: &[u8]) -> Option<Scanned> {
    match line {
        b"event: ready" => Some(Scanned::Ready),
        b"event: reset" => Some(Scanned::Reset),
        _ => {
            let name = line.strip_prefix(br#"data: {"name":"k"#)?;
            let end = name.iter().position(|byte| *byte == b'"')?;
            let number = std::str::from_utf8(&name[..end]).ok()?;
            number.parse().ok().map(Scanned::Key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_wherever_the_pieces_are_cut() {
        let text = concat!(
            "retry: 2000\n\n: comment\n",
            "event: ready\nid: t\ndata: {\"region\":\"eu\"}\n\n",
            "event: put\nid: t\ndata: {\"name\":\"k0000012\",\"version\":\"1\"}\n\n",
            "id: t\n\nevent: put\nid: t\ndata: {\"name\":\"other\",\"version\":\"1\"}\n\n",
            "event: put\nid: t\ndata: {\"name\":\"k0000007\",\"version\":\"1\"}\n\n",
            "event: reset\nid: t\ndata: {\"reason\":\"slow\"}\n\ndata: {\"name\":\"k1",
        );
        let expected = [
            Scanned::Ready,
            Scanned::Key(12),
            Scanned::Key(7),
            Scanned::Reset,
        ];
        for size in 1..text.len() {
            let (mut scanner, mut found) = (EventScanner::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                scanner.push(piece, |scanned| found.push(scanned));
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }
}
