//! Lines of a log with their times, whichever node they come from.

use std::io;
use std::pin::Pin;

use futures::io::AsyncBufRead;
use futures::stream::BoxStream;
use futures::{AsyncBufReadExt, AsyncReadExt, StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::logs::{self, LogReader};

/// No line is longer, bytes: pod, path, and a piece of what was written.
const LONGEST: u64 = 128 << 10;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// When it was collected.
    pub at: Timestamp,
    /// `POD PATH TEXT` and the line's end.
    pub text: Vec<u8>,
}

/// What one node has.
pub(super) type Lines = BoxStream<'static, io::Result<Line>>;

/// Of what this node keeps; `reader` gives times.
pub(super) fn own(reader: LogReader) -> Lines {
    let chunks = Box::pin(logs::stream(reader, || true));
    read(Box::pin(chunks.into_async_read()))
}

/// Of an answer with times.
pub(super) fn read(reader: Pin<Box<dyn AsyncBufRead + Send>>) -> Lines {
    futures::stream::try_unfold(reader, |mut reader| async move {
        let mut line = Vec::new();
        let read = (&mut reader).take(LONGEST).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(None);
        }
        let line = parse(line).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some((line, reader)))
    })
    .boxed()
}

fn parse(mut line: Vec<u8>) -> Option<Line> {
    let end = line.iter().position(|byte| *byte == b' ')?;
    let at = std::str::from_utf8(&line[..end]).ok()?.parse().ok()?;
    line.drain(..=end);
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    Some(Line { at, text: line })
}
