//! One question to one upstream after the other, by UDP, and by TCP when the answer is cut.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::Upstreams;
use crate::wire::HEADER_BYTES;

/// Clients give up after 5 s; that leaves time for a second server.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first answer that fits the question; `None` when no server gives one.
pub async fn ask(upstreams: &Upstreams, message: &[u8], question: &[u8]) -> Option<Vec<u8>> {
    for server in &upstreams.0 {
        // An id and a port of our own: what a client chose must not help who would forge answers.
        let mut own = message.to_vec();
        own.get_mut(..2)?.copy_from_slice(&rand::random::<[u8; 2]>());
        let answer = match within(by_udp(*server, &own, question)).await {
            Some(answer) if is_cut(&answer) => within(by_tcp(*server, &own)).await,
            other => other,
        };
        if let Some(answer) = answer.filter(|answer| fits(answer, &own, question)) {
            return Some(answer);
        }
    }
    None
}

async fn within(asked: impl Future<Output = std::io::Result<Vec<u8>>>) -> Option<Vec<u8>> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::debug!(%error, "an upstream server did not answer");
            None
        }
        Err(_) => None,
    }
}

async fn by_udp(server: SocketAddr, message: &[u8], question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut answer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(answer) = answer.get(..length).filter(|answer| fits(answer, message, question))
        {
            return Ok(answer.to_vec());
        }
    }
}

async fn by_tcp(server: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Whether it answers this very question.
fn fits(answer: &[u8], message: &[u8], question: &[u8]) -> bool {
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let echoed = answer.get(HEADER_BYTES..HEADER_BYTES + question.len());
    is_answer
        && answer.get(..2) == message.get(..2)
        && echoed.is_some_and(|echoed| echoed.eq_ignore_ascii_case(question))
}

fn is_cut(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & 0x02 != 0)
}
