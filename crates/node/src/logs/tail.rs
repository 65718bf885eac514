//! Where the last N lines of a file begin, without reading what is before them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::line::Record;

const BLOCK: u64 = 64 << 10;

/// The place in a log where its last lines begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Byte offset.
    pub offset: u64,
    /// Lines from there to the end.
    pub lines: u64,
}

/// Finds the last `wanted` lines of `file`. A line in several records counts once, at its last one.
pub(super) fn start(file: &mut File, wanted: u64, stream: Option<&str>) -> io::Result<Start> {
    let mut at = file.seek(SeekFrom::End(0))?;
    let mut lines = 0;
    // The bytes of a record whose beginning is in the block before.
    let mut carried: Vec<u8> = Vec::new();
    let end = at;
    if wanted == 0 {
        return Ok(Start { offset: end, lines: 0 });
    }
    while at > 0 {
        let from = at.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(at - from).expect("a block is small")];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        block.append(&mut carried);
        // Before the first line end is the rest of an earlier record, unless the file begins here.
        let complete = match from {
            0 => 0,
            _ => block.iter().position(|byte| *byte == b'\n').map_or(block.len(), |p| p + 1),
        };
        let mut stop = block.len();
        while stop > complete {
            let line_end = if block[stop - 1] == b'\n' { stop - 1 } else { stop };
            let begin = block[complete..line_end]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(complete, |place| complete + place + 1);
            let whole = Record::parse(&block[begin..line_end]).is_some_and(|record| {
                !record.partial && stream.is_none_or(|stream| stream == record.stream)
            });
            if whole {
                if lines == wanted {
                    return Ok(Start { offset: from + stop as u64, lines });
                }
                lines += 1;
            }
            stop = begin;
        }
        block.truncate(complete);
        carried = block;
        at = from;
    }
    Ok(Start { offset: 0, lines })
}
