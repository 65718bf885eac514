//! The client's half of SPDY/3.1, as much of it as container runtimes speak for exec and attach.
//!
//! A connection that was upgraded to SPDY carries numbered streams; each is opened by a
//! `SYN_STREAM` with compressed headers, answered by a `SYN_REPLY`, and closed by a frame with the
//! FIN flag. Runtimes of this family do no flow control, so the transport's own back-pressure is
//! all there is: reading is only as fast as the other side takes what was read.
//!
//! Source: SPDY protocol draft 3.1, §2.

mod dictionary;

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio_util::codec::{Decoder, Encoder};

const VERSION: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

const FIN: u8 = 1;
const HEADER: usize = 8;
/// A frame may claim 16 MiB; runtimes send at most 64 KiB at once.
const LONGEST_FRAME: usize = 1 << 20;

/// The number of a stream; a client's are odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// What came from the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The stream was accepted.
    Reply(StreamId),
    /// Bytes of a stream; with `last` its other half is closed.
    Data {
        /// The stream.
        id: StreamId,
        /// May be empty.
        bytes: Bytes,
        /// Nothing more will come.
        last: bool,
    },
    /// The stream was refused or broken off.
    Reset {
        /// The stream.
        id: StreamId,
        /// Why, as a number of the protocol.
        status: u32,
    },
    /// To be answered with the same number.
    Ping(u32),
    /// No more streams: the connection is about to end.
    GoAway,
    /// A frame that does not matter here: settings, windows, headers.
    Other,
}

/// What we send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Opens a stream with these headers; names in lower case.
    Open {
        /// The stream's number, larger than all before.
        id: StreamId,
        /// Name and value pairs.
        headers: Vec<(&'static str, String)>,
    },
    /// Bytes of a stream.
    Data {
        /// The stream.
        id: StreamId,
        /// May be empty when `last`.
        bytes: Bytes,
        /// Closes our half.
        last: bool,
    },
    /// Answers a ping, or asks.
    Ping(u32),
}

/// Frames in, frames out. The compression of headers has a memory, hence one value a connection.
#[derive(Debug)]
pub struct Spdy {
    headers: Compress,
}

impl Spdy {
    /// For a connection that was just upgraded.
    ///
    /// # Errors
    /// When the compressor refuses its dictionary.
    pub fn new() -> io::Result<Self> {
        let mut headers = Compress::new(Compression::default(), true);
        headers.set_dictionary(&dictionary::dictionary()).map_err(io::Error::other)?;
        Ok(Self { headers })
    }

    /// One block of headers, flushed so that the other side can read it at once.
    fn compress(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(block.len() + 256);
        let begin = self.headers.total_in();
        loop {
            let done = usize::try_from(self.headers.total_in() - begin).unwrap_or(block.len());
            let before = out.len();
            self.headers
                .compress_vec(&block[done..], &mut out, FlushCompress::Sync)
                .map_err(io::Error::other)?;
            let all_in = self.headers.total_in() - begin == block.len() as u64;
            // Room left over means that the flush is complete.
            if all_in && out.len() < out.capacity() {
                return Ok(out);
            }
            if out.len() == out.capacity() {
                out.reserve(256);
            } else if out.len() == before {
                return Err(io::Error::other("the header compressor is stuck"));
            }
        }
    }
}

impl Decoder for Spdy {
    type Item = Received;
    type Error = io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> io::Result<Option<Received>> {
        if bytes.len() < HEADER {
            return Ok(None);
        }
        let flags = bytes[4];
        let length =
            usize::from(bytes[5]) << 16 | usize::from(bytes[6]) << 8 | usize::from(bytes[7]);
        if length > LONGEST_FRAME {
            return Err(invalid("a frame is too long"));
        }
        if bytes.len() < HEADER + length {
            bytes.reserve(HEADER + length - bytes.len());
            return Ok(None);
        }
        let first = bytes.get_u32();
        bytes.advance(4);
        let mut body = bytes.split_to(length).freeze();
        if first >> 31 == 0 {
            return Ok(Some(Received::Data {
                id: StreamId(first),
                bytes: body,
                last: flags & FIN != 0,
            }));
        }
        let mut number = || match body.remaining() {
            0..4 => Err(invalid("a control frame is too short")),
            _ => Ok(body.get_u32() & 0x7fff_ffff),
        };
        let kind = u16::try_from(first & 0xffff).expect("16 bits");
        Ok(Some(match kind {
            SYN_REPLY => Received::Reply(StreamId(number()?)),
            RST_STREAM => Received::Reset { id: StreamId(number()?), status: number()? },
            PING => Received::Ping(number()?),
            GOAWAY => Received::GoAway,
            _ => Received::Other,
        }))
    }
}

impl Encoder<Sent> for Spdy {
    type Error = io::Error;

    fn encode(&mut self, frame: Sent, out: &mut BytesMut) -> io::Result<()> {
        match frame {
            Sent::Data { id, bytes, last } => {
                out.put_u32(id.0);
                put_length(out, if last { FIN } else { 0 }, bytes.len())?;
                out.extend_from_slice(&bytes);
            }
            Sent::Ping(number) => {
                put_control(out, PING);
                put_length(out, 0, 4)?;
                out.put_u32(number);
            }
            Sent::Open { id, headers } => {
                let mut block = Vec::new();
                put_count(&mut block, headers.len());
                for (name, value) in headers {
                    put_count(&mut block, name.len());
                    block.extend_from_slice(name.as_bytes());
                    put_count(&mut block, value.len());
                    block.extend_from_slice(value.as_bytes());
                }
                let block = self.compress(&block)?;
                put_control(out, SYN_STREAM);
                put_length(out, 0, 10 + block.len())?;
                out.put_u32(id.0);
                // No stream it belongs to, highest priority, no credential slot.
                out.put_u32(0);
                out.put_u16(0);
                out.extend_from_slice(&block);
            }
        }
        Ok(())
    }
}

fn put_control(out: &mut BytesMut, kind: u16) {
    out.put_u16(VERSION);
    out.put_u16(kind);
}

fn put_length(out: &mut BytesMut, flags: u8, length: usize) -> io::Result<()> {
    let length = u32::try_from(length).ok().filter(|length| *length < 1 << 24);
    let length = length.ok_or_else(|| invalid("a frame is too long"))?;
    out.put_u32(u32::from(flags) << 24 | length);
    Ok(())
}

fn put_count(block: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("headers are short");
    block.extend_from_slice(&count.to_be_bytes());
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
