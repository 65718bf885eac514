//! Queries over TCP: each with its length before it (RFC 7766), several on one connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::answer::{self, Parts};
use crate::forward::{Forwarder, Job};
use crate::resolve::{Resolved, resolve};
use crate::wire::{self, MOST_NAME_BYTES, Unreadable, code};
use crate::{Current, StartError};

/// Connections at once; each holds a few KiB.
const MOST_CONNECTIONS: usize = 256;
/// RFC 7766 §6.2.3 leaves it to the server; clients open a new one at no great cost.
const IDLE: Duration = Duration::from_secs(10);
const WHOLE_ANSWER: usize = u16::MAX as usize;

/// Serves `address` until `tasks` is told to stop.
///
/// # Errors
/// When the port cannot be listened on.
pub fn serve(
    address: SocketAddr,
    current: &Current,
    forwarder: &Forwarder,
    tasks: &Tasks,
) -> Result<(), StartError> {
    let listener = open(address).map_err(|source| StartError::Listen { address, source })?;
    let (current, forwarder, group) = (current.clone(), forwarder.clone(), tasks.clone());
    tasks.spawn_until_stop("tcp", async move {
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (current, forwarder) = (current.clone(), forwarder.clone());
            group.spawn_until_stop("tcp-connection", async move {
                if let Err(error) = converse(stream, &current, &forwarder).await {
                    tracing::debug!(%error, "a connection ended");
                }
                drop(place);
            });
        }
    });
    Ok(())
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

async fn converse(
    mut stream: TcpStream,
    current: &Current,
    forwarder: &Forwarder,
) -> std::io::Result<()> {
    let mut message = Vec::new();
    loop {
        let Ok(length) = tokio::time::timeout(IDLE, stream.read_u16()).await else { return Ok(()) };
        message.resize(usize::from(length?), 0);
        tokio::time::timeout(IDLE, stream.read_exact(&mut message)).await??;
        let Some(answer) = respond(&message, current, forwarder).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// The answer to a message; `None` ends the connection.
async fn respond(message: &[u8], current: &Current, forwarder: &Forwarder) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let pending = {
        let mut name = [0; MOST_NAME_BYTES];
        let query = match wire::read(message, &mut name) {
            Ok(query) => query,
            Err(Unreadable::Ignore) => return None,
            Err(Unreadable::Answer(code)) => {
                answer::write_unreadable(message, code, &mut out);
                return Some(out);
            }
        };
        let zone = current.load();
        let known = |parts: &Parts<'_>, out: &mut Vec<u8>| {
            answer::write(&query, parts, WHOLE_ANSWER, out);
        };
        let alias = match resolve(&zone, &query, 0) {
            Resolved::Known(parts) => {
                known(&parts, &mut out);
                return Some(out);
            }
            Resolved::Made(records) => {
                let parts =
                    Parts { authoritative: true, answers: Some(&records), ..Parts::default() };
                known(&parts, &mut out);
                return Some(out);
            }
            Resolved::Alias(target) => Some(target.clone()),
            Resolved::Forward => None,
        };
        let (done, answered) = oneshot::channel();
        let job = Job::new(message, alias, WHOLE_ANSWER, move |answer| {
            drop(done.send(answer.to_vec())); // the connection may have ended meanwhile
        });
        if forwarder.submit(job).is_err() {
            known(&Parts { code: code::SERVER_FAILURE, ..Parts::default() }, &mut out);
            return Some(out);
        }
        answered
    };
    pending.await.ok()
}
