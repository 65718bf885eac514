//! What stands behind the proxies: answers every request with the same few bytes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::Result;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n\
                        hello, world";

/// A server of this process, until that ends. Each connection has a thread: there are as many as
/// the proxies keep.
pub struct Behind {
    pub port: u16,
}

impl Behind {
    /// Starts it on a free port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
        Ok(Self { port })
    }
}

/// Requests without a body, one after the other.
fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]) {
        filled += read;
        while let Some(end) = memchr::memmem::find(&buffer[..filled], b"\r\n\r\n") {
            buffer.copy_within(end + 4..filled, 0);
            filled -= end + 4;
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
        if filled == buffer.len() {
            return;
        }
    }
}
