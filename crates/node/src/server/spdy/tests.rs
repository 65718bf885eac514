//! Frames written and read back as the protocol draws them.

use flate2::{Decompress, FlushDecompress};

use super::*;

/// The other side's half, for reading what we send.
struct Reader(Decompress);

impl Reader {
    fn headers(&mut self, block: &[u8]) -> Vec<(String, String)> {
        let mut out = Vec::with_capacity(16 << 10);
        // The first block asks for the dictionary before it gives anything.
        if self.0.decompress_vec(block, &mut out, FlushDecompress::Sync).is_err() {
            let adler = self.0.set_dictionary(&dictionary::dictionary()).expect("it fits");
            assert_eq!(adler, 0xe3c6_a7c2, "the dictionary of the protocol");
            let done = usize::try_from(self.0.total_in()).expect("small");
            self.0
                .decompress_vec(&block[done..], &mut out, FlushDecompress::Sync)
                .expect("a flushed block");
        }
        let mut out = Bytes::from(out);
        let text = |bytes: &mut Bytes| {
            let length = bytes.get_u32() as usize;
            String::from_utf8(bytes.split_to(length).to_vec()).expect("text")
        };
        let count = out.get_u32();
        (0..count).map(|_| (text(&mut out), text(&mut out))).collect()
    }
}

fn open(id: u32, kind: &str) -> Sent {
    Sent::Open { id: StreamId(id), headers: vec![("streamtype", kind.to_owned())] }
}

#[test]
fn headers_of_every_stream_can_be_read_in_turn() {
    let mut spdy = Spdy::new().expect("a compressor");
    let mut reader = Reader(Decompress::new(true));
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, &*"x".repeat(5000))] {
        let mut out = BytesMut::new();
        spdy.encode(open(id, kind), &mut out).expect("encoded");
        assert_eq!(out[..4], [0x80, 3, 0, 1]);
        let length = usize::from(out[5]) << 16 | usize::from(out[6]) << 8 | usize::from(out[7]);
        assert_eq!(out.len(), 8 + length);
        assert_eq!(u32::from_be_bytes([out[8], out[9], out[10], out[11]]), id);
        let headers = reader.headers(&out[18..]);
        assert_eq!(headers, [("streamtype".to_owned(), kind.to_owned())]);
    }
}

#[test]
fn data_is_read_as_it_was_written_in_any_pieces() {
    let mut spdy = Spdy::new().expect("a compressor");
    let mut wire = BytesMut::new();
    for (text, last) in [("hello", false), ("", true)] {
        let bytes = Bytes::from_static(text.as_bytes());
        spdy.encode(Sent::Data { id: StreamId(3), bytes, last }, &mut wire).expect("encoded");
    }
    spdy.encode(Sent::Ping(9), &mut wire).expect("encoded");
    let mut read = Vec::new();
    let mut buffer = BytesMut::new();
    for byte in wire {
        buffer.put_u8(byte);
        read.extend(spdy.decode(&mut buffer).expect("valid"));
    }
    let data = |text: &'static str, last| Received::Data {
        id: StreamId(3),
        bytes: Bytes::from_static(text.as_bytes()),
        last,
    };
    assert_eq!(read, [data("hello", false), data("", true), Received::Ping(9)]);
}

#[test]
fn control_frames_are_told_apart() {
    let mut spdy = Spdy::new().expect("a compressor");
    for (bytes, expected) in [
        (&[0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 5][..], Some(Received::Reply(StreamId(5)))),
        (
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3],
            Some(Received::Reset { id: StreamId(5), status: 3 }),
        ),
        (&[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0], Some(Received::GoAway)),
        (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0], Some(Received::Other)),
        (&[0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0], None),
    ] {
        let mut buffer = BytesMut::from(bytes);
        assert_eq!(spdy.decode(&mut buffer).expect("valid"), expected, "{bytes:?}");
    }
    let mut short = BytesMut::from(&[0x80, 3, 0, 2, 0, 0, 0, 2, 0, 0][..]);
    assert!(spdy.decode(&mut short).is_err());
    let mut long = BytesMut::from(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..]);
    assert!(spdy.decode(&mut long).is_err());
}
