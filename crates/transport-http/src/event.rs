//! Event streams (`text/event-stream`, as the HTML standard has it): writing them, and reading them within limits.

use std::collections::VecDeque;

use data_encoding::BASE64;
use opor_transport_traits::Bytes;

use crate::batch::Batch;
use crate::limits::LINE_MAX;
use crate::state::Violation;

/// Says that the stream gets through. Its client waits for it.
pub(crate) const HELLO: Bytes = Bytes::from_static(b"event: hello\ndata\n\n");

/// Says that the link is lost.
pub(crate) const LOST: Bytes = Bytes::from_static(b"event: lost\ndata\n\n");

/// Says nothing, so that proxies do not take the stream for dead.
pub(crate) const KEEP_ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// A batch whose last message has this number.
pub(crate) fn of_batch(last: u64, batch: &[u8]) -> Bytes {
    format!("id: {last}\ndata: {}\n\n", BASE64.encode(batch)).into()
}

/// What a stream brings.
#[derive(Debug)]
pub(crate) enum Event {
    Hello,
    Batch(Batch),
    Lost,
    /// A sign of life.
    KeepAlive,
}

/// How many unknown fields and comments may stand between two events that mean something.
const NOISE_MAX: usize = 1024;

/// Takes a stream apart. It holds one line and one event at most.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    /// The last line ended with a carriage return, so a line feed that follows belongs to it.
    after_return: bool,
    kind: Vec<u8>,
    id: Vec<u8>,
    data: Option<Vec<u8>>,
    /// Lines since the last event.
    noise: usize,
}

impl Parser {
    /// Takes some bytes in; adds the events that they complete.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), Violation> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + piece.len() > LINE_MAX {
                return Err(Violation("a line of the event stream is too long"));
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else { return Ok(()) };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.line(line)?);
        }
        Ok(())
    }

    fn line(&mut self, line: Vec<u8>) -> Result<Option<Event>, Violation> {
        if line.is_empty() {
            return self.dispatch();
        }
        if line[0] == b':' {
            return Ok(Some(Event::KeepAlive));
        }
        self.noise += 1;
        if self.noise > NOISE_MAX {
            return Err(Violation("an event that does not end"));
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let name = &line[..colon.unwrap_or(line.len())];
        let value = colon.map_or(&[][..], |colon| &line[colon + 1..]);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => self.kind = value.to_vec(),
            b"id" => self.id = value.to_vec(),
            b"data" if self.data.is_some() => {
                return Err(Violation("an event with more than one line of data"));
            }
            b"data" => self.data = Some(value.to_vec()),
            _ => {}
        }
        Ok(None)
    }

    fn dispatch(&mut self) -> Result<Option<Event>, Violation> {
        let (kind, id, data) =
            (std::mem::take(&mut self.kind), std::mem::take(&mut self.id), self.data.take());
        self.noise = 0;
        let Some(data) = data else { return Ok(None) };
        match &*kind {
            b"hello" => Ok(Some(Event::Hello)),
            b"lost" => Ok(Some(Event::Lost)),
            b"" => batch(&id, &data).map(|batch| Some(Event::Batch(batch))),
            // Of a newer server, perhaps.
            _ => Ok(Some(Event::KeepAlive)),
        }
    }
}

fn batch(id: &[u8], data: &[u8]) -> Result<Batch, Violation> {
    let bytes = BASE64.decode(data).map_err(|_| Violation("an event that is not base64"))?;
    let batch = Batch::decode(bytes.into()).map_err(|error| Violation(error.phrase()))?;
    let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    if id != Some(batch.last()) {
        return Err(Violation("an event with a wrong id"));
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Message, encode};
    use crate::limits::FRAME_MAX;

    /// What a stream brings, in short, however it is cut.
    fn read(stream: &[u8], piece: usize) -> Result<Vec<String>, Violation> {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        for piece in stream.chunks(piece) {
            parser.feed(piece, &mut events)?;
        }
        let told = |event| match event {
            Event::Hello => "hello".to_owned(),
            Event::Lost => "lost".to_owned(),
            Event::KeepAlive => "alive".to_owned(),
            Event::Batch(batch) => {
                let last = batch.last();
                let first = batch.messages().next().map_or(0, |(number, _)| number);
                format!("{first} to {last}")
            }
        };
        Ok(events.into_iter().map(told).collect())
    }

    #[track_caller]
    fn brings(stream: &[u8], due: &[&str]) {
        for piece in [1, 2, 3, 7, stream.len()] {
            assert_eq!(read(stream, piece).expect("a stream"), due, "in pieces of {piece}");
        }
    }

    #[track_caller]
    fn is_refused(stream: &[u8], due: &'static str) {
        for piece in [1, 1000, stream.len()] {
            assert_eq!(read(stream, piece), Err(Violation(due)), "in pieces of {piece}");
        }
    }

    fn frames(first: u64, count: usize) -> Bytes {
        encode(first, &vec![Message::Frame(Bytes::from_static(b"x")); count], false)
    }

    #[test]
    fn what_is_written_is_read() {
        let stream =
            [&HELLO[..], &KEEP_ALIVE, &of_batch(3, &frames(1, 3)), &of_batch(4, &frames(4, 1)), &LOST]
                .concat();
        brings(&stream, &["hello", "alive", "1 to 3", "4 to 4", "lost"]);
        let text = String::from_utf8(stream).expect("text");
        brings(text.replace('\n', "\r\n").as_bytes(), &["hello", "alive", "1 to 3", "4 to 4", "lost"]);
        brings(text.replace('\n', "\r").as_bytes(), &["hello", "alive", "1 to 3", "4 to 4", "lost"]);
    }

    #[test]
    fn the_largest_frame_fits_into_a_line() {
        let batch = encode(1, &[Message::Frame(vec![0xff; FRAME_MAX].into())], false);
        assert_eq!(read(&of_batch(1, &batch), 4096).expect("a stream"), ["1 to 1"]);
    }

    #[test]
    fn what_is_unknown_is_passed_over() {
        brings(b"retry: 10\nevent: news\ndata: x\n\nevent: hello\n\n\n\n", &["alive"]);
        brings(b"data", &[]);
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        is_refused(&vec![b'x'; LINE_MAX + 1], "a line of the event stream is too long");
        is_refused(&b"x: y\n".repeat(NOISE_MAX + 1), "an event that does not end");
        is_refused(b"id: 1\ndata: ###\n\n", "an event that is not base64");
        is_refused(b"id: 1\ndata: AAAA\n\n", "a batch that is malformed");
        is_refused(b"data: a\ndata: b\n\n", "an event with more than one line of data");
        is_refused(&of_batch(2, &frames(1, 1)), "an event with a wrong id");
        let text = String::from_utf8(of_batch(1, &frames(1, 1)).to_vec()).expect("text");
        is_refused(text.replace("id: 1\n", "").as_bytes(), "an event with a wrong id");
    }
}
