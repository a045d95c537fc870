//! Server-sent events out of a stream of bytes that may be cut anywhere: the grammar of the HTML standard, section
//! "Parsing an event stream" (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), of which only the data
//! is kept. Memory is bounded whatever a server sends.

/// Bytes that one line may have.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes that one event's data may have.
pub const EVENT_BYTES_MAX: usize = 4 << 20;

/// Why bytes are no event stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    #[error("a line of the event stream has more than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("an event of the stream has more than {EVENT_BYTES_MAX} bytes")]
    EventTooLong,
    #[error("the event stream is not UTF-8")]
    NotUtf8,
}

/// What is left over between two pieces of a stream.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    data: String,
    has_data: bool,
    /// A line feed that comes next belongs to the carriage return before it.
    after_return: bool,
    /// The stream's first line is over; only before it may a byte order mark stand.
    begun: bool,
}

impl SseParser {
    /// Takes the next bytes and gives the data of every event that they complete. An event that the stream's end cuts
    /// off is dropped, as the standard has it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, SseError> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ if self.line.len() == LINE_BYTES_MAX => return Err(SseError::LineTooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    /// Reads the line that is complete; the event's data where it ends one.
    fn end_line(&mut self) -> Result<Option<String>, SseError> {
        let line = std::mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return Ok(std::mem::take(&mut self.has_data).then_some(data));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        // Other fields, and comments, which are lines whose field is empty, say nothing of the answer.
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            if self.data.len() + value.len() + 1 > EVENT_BYTES_MAX {
                return Err(SseError::EventTooLong);
            }
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push('\n');
            }
            self.data.push_str(value);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(pieces: &[&[u8]]) -> Result<Vec<String>, SseError> {
        let mut parser = SseParser::default();
        let parsed = pieces.iter().map(|piece| parser.push(piece)).collect::<Result<Vec<_>, _>>()?;
        Ok(parsed.concat())
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let parsed = |text: &str| events(&[text.as_bytes()]).expect("a stream");
        assert_eq!(parsed("data: a\n\ndata:b\n\n"), ["a", "b"]);
        assert_eq!(parsed("data: a\r\n\r\ndata: b\r\rdata: c\n\n"), ["a", "b", "c"]);
        assert_eq!(parsed(": a comment\nevent: x\nid: 7\nretry: 3\ndata: a\ndata:  b\n\n"), ["a\n b"]);
        assert_eq!(parsed("\u{feff}data: a\n\n\n\n"), ["a"]);
        assert_eq!(parsed("data\n\n"), [""]);
        assert_eq!(parsed("data: cut off\n"), [""; 0]);
        assert_eq!(parsed("nonsense\n\n"), [""; 0]);
    }

    #[test]
    fn a_line_end_may_be_cut_in_two() {
        assert_eq!(events(&[b"data: a\r", b"\n\r", b"\ndata: b\n", b"\n"]), Ok(vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn what_is_too_long_or_no_text_is_refused() {
        assert_eq!(events(&[&vec![b'x'; LINE_BYTES_MAX], b"\n"]), Ok(vec![]));
        assert_eq!(events(&[&vec![b'x'; LINE_BYTES_MAX + 1]]), Err(SseError::LineTooLong));
        let line = [b"data: ", vec![b'x'; LINE_BYTES_MAX - 6].as_slice(), b"\n"].concat();
        assert_eq!(events(&[line.as_slice(); 5]), Err(SseError::EventTooLong));
        assert_eq!(events(&[b"data: \xff\n"]), Err(SseError::NotUtf8));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let cut = cut.min(bytes.len());
            let whole = events(&[&bytes]);
            let pieces = events(&[&bytes[..cut], &bytes[cut..]]);
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn data_arrives_as_it_was_sent(sent in proptest::collection::vec("[^\r\n]{0,40}", 1..8), end in 0usize..3) {
            let end = ["\n", "\r", "\r\n"][end];
            let text: String = sent.iter().map(|data| format!("data: {data}{end}{end}")).collect();
            prop_assert_eq!(events(&[text.as_bytes()]), Ok(sent));
        }
    }
}
