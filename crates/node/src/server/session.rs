//! WebSocket sessions in a protocol that containerd does not speak.
//!
//! ```text
//!  client ══ WebSocket v5.channel.k8s.io ══ here ══ SPDY/3.1, one stream a channel ══ containerd
//! ```
//!
//! The first byte of a message is its channel. Version 5 adds channel 255, with which the client
//! closes another one: `echo hi | kubectl exec -i POD -- cat` ends because of it. containerd up to
//! 1.7 refuses version 5, and version 4 cannot close, hence SPDY behind.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_util::codec::Framed;

use super::spdy::{Received, Sent, Spdy, StreamId};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Clients send 32 KiB at most.
const LONGEST_MESSAGE: usize = 1 << 20;
/// containerd's own limit for a stream on which nothing happens.
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// A stream is accepted as soon as its frame is read.
const ACCEPT: Duration = Duration::from_secs(15);
/// A client that has gone without a word is noticed by the ping that stays unanswered.
const PING: Duration = Duration::from_secs(30);

/// Which streams a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channels {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Channels {
    /// Channel and SPDY stream type, in the order that runtimes expect.
    fn wanted(self) -> Vec<(u8, &'static str)> {
        let all = [
            (true, ERROR, "error"),
            (self.stdin, STDIN, "stdin"),
            (self.stdout, STDOUT, "stdout"),
            // A terminal has one output only.
            (self.stderr && !self.tty, STDERR, "stderr"),
            (self.tty, RESIZE, "resize"),
        ];
        all.into_iter()
            .filter(|(wanted, ..)| *wanted)
            .map(|(_, channel, name)| (channel, name))
            .collect()
    }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE))
}

/// Carries a version 5 session between `client` and `container` until one of them ends.
pub(super) async fn carry(
    client: TokioIo<Upgraded>,
    container: TokioIo<Upgraded>,
    channels: Channels,
) -> io::Result<()> {
    let client = WebSocketStream::from_raw_socket(client, Role::Server, Some(limits())).await;
    let mut container = Framed::new(container, Spdy::new()?);
    let streams = open_streams(&mut container, channels).await?;
    let (to_client, from_client) = client.split();
    let (to_container, from_container) = container.split();
    // The two directions never wait for each other: `cat` reads no more while nobody takes what it
    // wrote. A runtime's pings are rare, so a few places do.
    let (pongs, pings) = mpsc::channel(4);
    let heard = AtomicBool::new(true);
    tokio::select! {
        ended = inward(from_client, to_container, &streams, pings, &heard) => ended,
        ended = outward(from_container, to_client, &streams, pongs, &heard) => ended,
    }
}

type Client = WebSocketStream<TokioIo<Upgraded>>;
type Container = Framed<TokioIo<Upgraded>, Spdy>;

/// From the client to the container, until the client closes.
async fn inward(
    mut client: SplitStream<Client>,
    mut container: SplitSink<Container, Sent>,
    streams: &[(u8, StreamId)],
    mut pings: mpsc::Receiver<u32>,
    heard: &AtomicBool,
) -> io::Result<()> {
    let mut closed: BTreeSet<u8> = BTreeSet::new();
    loop {
        let message = tokio::select! {
            message = client.next() => message,
            Some(number) = pings.recv() => {
                container.send(Sent::Ping(number)).await?;
                continue;
            }
        };
        heard.store(true, Ordering::Relaxed);
        let message = match message {
            Some(Ok(Message::Binary(message))) => message,
            Some(Ok(Message::Close(_))) | None => return Ok(()),
            // Pings are answered by the library, text is not of this protocol.
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(io::Error::other(error)),
        };
        let Some((channel, bytes, last)) = read_message(&message) else { continue };
        let id = streams.iter().find(|(known, _)| *known == channel).map(|(_, id)| *id);
        if let Some(id) = id
            && matches!(channel, STDIN | RESIZE)
            && !closed.contains(&channel)
        {
            if last {
                closed.insert(channel);
            }
            container.send(Sent::Data { id, bytes, last }).await?;
        }
    }
}

/// The channel a message is for, its bytes, and whether it closes the channel.
fn read_message(message: &Bytes) -> Option<(u8, Bytes, bool)> {
    let (&first, rest) = message.split_first()?;
    if first == CLOSE {
        return Some((*rest.first()?, Bytes::new(), true));
    }
    Some((first, message.slice(1..), false))
}

/// From the container to the client, until the container has finished all its streams.
async fn outward(
    mut container: SplitStream<Container>,
    mut client: SplitSink<Client, Message>,
    streams: &[(u8, StreamId)],
    pongs: mpsc::Sender<u32>,
    heard: &AtomicBool,
) -> io::Result<()> {
    let channel_of = |id: StreamId| streams.iter().find(|(_, known)| *known == id).map(|(c, _)| *c);
    let mut unfinished: BTreeSet<u8> = streams
        .iter()
        .map(|(channel, _)| *channel)
        .filter(|channel| matches!(*channel, STDOUT | STDERR | ERROR))
        .collect();
    let mut looks = tokio::time::interval(PING);
    let mut last_frame = Instant::now();
    while !unfinished.is_empty() {
        let frame = tokio::select! {
            frame = container.next() => frame.transpose()?,
            _ = looks.tick() => {
                if !heard.swap(false, Ordering::Relaxed) || last_frame.elapsed() > IDLE {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                client.send(Message::Ping(Bytes::new())).await.map_err(io::Error::other)?;
                continue;
            }
        };
        last_frame = Instant::now();
        let finished = match frame {
            None | Some(Received::GoAway) => break,
            Some(Received::Data { id, bytes, last }) => {
                let channel = channel_of(id);
                if let Some(channel) = channel
                    && !bytes.is_empty()
                {
                    let message = Message::binary([&[channel], bytes.as_ref()].concat());
                    client.send(message).await.map_err(io::Error::other)?;
                }
                channel.filter(|_| last)
            }
            Some(Received::Reset { id, .. }) => channel_of(id),
            Some(Received::Ping(number)) => {
                // A runtime that pings faster than it reads gets fewer answers.
                let _ = pongs.try_send(number);
                None
            }
            Some(Received::Reply(_) | Received::Other) => None,
        };
        if let Some(channel) = finished {
            unfinished.remove(&channel);
        }
    }
    client.send(farewell()).await.map_err(io::Error::other)?;
    client.close().await.map_err(io::Error::other)
}

/// Clients take an end without the code of a normal one for a failure.
fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// Opens one SPDY stream a channel and waits until all are accepted.
async fn open_streams(
    container: &mut Framed<TokioIo<Upgraded>, Spdy>,
    channels: Channels,
) -> io::Result<Vec<(u8, StreamId)>> {
    let mut streams = Vec::new();
    for ((channel, name), number) in channels.wanted().into_iter().zip((1u32..).step_by(2)) {
        let id = StreamId(number);
        container.send(Sent::Open { id, headers: vec![("streamtype", name.to_owned())] }).await?;
        let accepted = async {
            loop {
                match container.next().await.transpose()? {
                    Some(Received::Reply(replied)) if replied == id => return Ok(()),
                    Some(Received::Ping(number)) => container.send(Sent::Ping(number)).await?,
                    None | Some(Received::GoAway | Received::Reset { .. }) => {
                        return Err(io::Error::from(io::ErrorKind::ConnectionReset));
                    }
                    Some(_) => {}
                }
            }
        };
        tokio::time::timeout(ACCEPT, accepted).await.map_err(|_| io::ErrorKind::TimedOut)??;
        streams.push((channel, id));
    }
    Ok(streams)
}

/// Carries a SPDY connection inside binary WebSocket messages, as kubectl does for port-forward.
pub(super) async fn tunnel(
    client: TokioIo<Upgraded>,
    container: TokioIo<Upgraded>,
) -> io::Result<()> {
    let client = WebSocketStream::from_raw_socket(client, Role::Server, Some(limits())).await;
    let (mut to_client, mut from_client) = client.split();
    let (mut from_container, mut to_container) = tokio::io::split(container);
    let inward = async {
        while let Some(message) = from_client.next().await {
            match message.map_err(io::Error::other)? {
                Message::Binary(bytes) => to_container.write_all(&bytes).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        to_container.shutdown().await
    };
    let outward = async {
        let mut buffer = vec![0; 32 << 10];
        loop {
            let read = tokio::time::timeout(IDLE, from_container.read(&mut buffer)).await;
            let length = read.map_err(|_| io::ErrorKind::TimedOut)??;
            if length == 0 {
                to_client.send(farewell()).await.map_err(io::Error::other)?;
                return to_client.close().await.map_err(io::Error::other);
            }
            let message = Message::binary(Bytes::copy_from_slice(&buffer[..length]));
            to_client.send(message).await.map_err(io::Error::other)?;
        }
    };
    tokio::select! {
        ended = inward => ended,
        ended = outward => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_channel_and_255_closes_another() {
        let read = |bytes: &'static [u8]| read_message(&Bytes::from_static(bytes));
        assert_eq!(read(&[0, b'h', b'i']), Some((STDIN, Bytes::from_static(b"hi"), false)));
        assert_eq!(read(&[255, 0]), Some((STDIN, Bytes::new(), true)));
        assert_eq!(read(&[255]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_terminal_has_one_output_and_a_size() {
        let check = |channels: Channels, expected: &[&str]| {
            let names: Vec<_> = channels.wanted().into_iter().map(|(_, name)| name).collect();
            assert_eq!(names, expected);
        };
        let all = Channels { stdin: true, stdout: true, stderr: true, tty: false };
        check(all, &["error", "stdin", "stdout", "stderr"]);
        check(Channels { tty: true, ..all }, &["error", "stdin", "stdout", "resize"]);
        check(Channels { stdin: false, stderr: false, ..all }, &["error", "stdout"]);
    }
}
