//! One question to one upstream: UDP first, TCP where the answer did not fit.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Question, encode};
use crate::query::{HEADER, flag};

/// Times that every upstream is asked.
pub(super) const ROUNDS: usize = 2;
/// A client asks again after five seconds: two upstreams must have had their turn by then.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Asks `upstream`.
///
/// # Errors
/// When it cannot be reached, does not answer in time, or its answer cannot be read.
pub(super) async fn ask(upstream: SocketAddr, question: &Question) -> io::Result<Message> {
    let id = rand::random();
    let packet = encode(question, id);
    let bytes = timeout(PATIENCE, over_udp(upstream, &packet)).await??;
    let truncated = u16::from_be_bytes([bytes[2], bytes[3]]) & flag::TRUNCATED != 0;
    let bytes = match truncated {
        true => timeout(PATIENCE, over_tcp(upstream, &packet)).await??,
        false => bytes,
    };
    let mut message = Message::from_vec(&bytes).map_err(|_| invalid("cannot be read"))?;
    message.edns = None;
    Ok(message)
}

/// From a port of its own each time: with the id, 32 bits that a forger would have to guess.
async fn over_udp(upstream: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let own: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(upstream).await?;
    socket.send(packet).await?;
    let mut bytes = vec![0; 4096];
    loop {
        let length = socket.recv(&mut bytes).await?;
        if answers(&bytes[..length], packet) {
            bytes.truncate(length);
            return Ok(bytes);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(packet.len()).map_err(|_| invalid("is too long"))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    if answers(&bytes, packet) { Ok(bytes) } else { Err(invalid("answers something else")) }
}

/// Whether `answer` is a response to `question`: same id, a query's (in an update's, records may
/// lack their data: RFC 2136 §2.4), same question in any case.
fn answers(answer: &[u8], question: &[u8]) -> bool {
    // Behind the question stands our OPT record of eleven bytes.
    let Some(asked) = question.get(HEADER..question.len() - 11) else { return false };
    let Some(said) = answer.get(HEADER..HEADER + asked.len()) else { return false };
    answer[..2] == question[..2] && answer[2] & 0xF8 == 0x80 && said.eq_ignore_ascii_case(asked)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the upstream's answer {what}"))
}
