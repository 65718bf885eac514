//! Datagrams: one thread a core, each with a socket of its own on the one port (SO_REUSEPORT), so
//! that the kernel spreads clients over threads and over processes. Batches in, batches out
//! (`recvmmsg(2)`, `sendmmsg(2)`): one system call for up to [`BATCH`] queries under load, and one
//! a query when idle.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::answer::{self, Parts, udp_limit};
use crate::forward::{Forwarder, Job};
use crate::resolve::{Resolved, resolve};
use crate::wire::{self, MOST_NAME_BYTES, Unreadable};
use crate::zone::Zone;
use crate::{Current, StartError};

/// Datagrams a system call.
const BATCH: usize = 32;
/// A query is a name and a few options; larger ones are cut and then unreadable.
const MOST_QUERY_BYTES: usize = 1500;
/// What may wait in the kernel while a thread is off the core.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// How often an idle thread looks whether the end has come.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// Starts the threads; they end when `tasks` is told to stop.
///
/// # Errors
/// When the port cannot be listened on.
pub fn serve(
    address: SocketAddr,
    current: &Current,
    forwarder: &Forwarder,
    tasks: &Tasks,
) -> Result<(), StartError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for n in 0..threads {
        let failed = |source| StartError::Listen { address, source };
        let socket = Arc::new(open(address).map_err(failed)?);
        let worker = Worker {
            socket,
            current: current.clone(),
            forwarder: forwarder.clone(),
            tasks: tasks.clone(),
            turn: 0,
        };
        std::thread::Builder::new()
            .name(format!("udp-{n}"))
            .spawn(move || worker.run())
            .map_err(failed)?;
    }
    Ok(())
}

fn open(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // The kernel may give less; that costs queries under bursts, nothing else.
    drop(socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES));
    socket.set_read_timeout(Some(IDLE_LOOK))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

struct Worker {
    socket: Arc<UdpSocket>,
    current: Current,
    forwarder: Forwarder,
    tasks: Tasks,
    /// Which of several answers goes first; moves on with every query.
    turn: usize,
}

/// What becomes of one datagram.
enum Outcome {
    /// Send what was written.
    Send,
    /// Nothing to send now.
    Nothing,
}

impl Worker {
    fn run(mut self) {
        let mut incoming = [[0u8; MOST_QUERY_BYTES]; BATCH];
        let mut outgoing: [Vec<u8>; BATCH] = std::array::from_fn(|_| Vec::with_capacity(2048));
        let mut received = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let mut sent = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        while !self.tasks.is_stopping() {
            let mut peers = [(0usize, None); BATCH];
            let count = {
                let mut places = incoming.each_mut().map(|bytes| [IoSliceMut::new(bytes)]);
                let flags = MsgFlags::MSG_WAITFORONE;
                let fd = self.socket.as_raw_fd();
                match recvmmsg(fd, &mut received, places.iter_mut(), flags, None) {
                    Ok(messages) => messages
                        .zip(&mut peers)
                        .map(|(message, peer)| *peer = (message.bytes, message.address))
                        .count(),
                    Err(Errno::EAGAIN | Errno::EINTR) => continue, // idle
                    Err(error) => {
                        // ICMP errors of earlier answers land here; the socket stays good.
                        tracing::debug!(%error, "receiving");
                        continue;
                    }
                }
            };
            let zone = self.current.load();
            let mut targets: [Option<SockaddrIn>; BATCH] = [None; BATCH];
            let mut ready = 0;
            for (bytes, (length, peer)) in incoming.iter().zip(peers).take(count) {
                let (Some(message), Some(peer)) = (bytes.get(..length), peer) else { continue };
                let (Some(out), Some(target)) = (outgoing.get_mut(ready), targets.get_mut(ready))
                else {
                    break;
                };
                if let Outcome::Send = self.answer(&zone, message, peer, out) {
                    *target = Some(peer);
                    ready += 1;
                }
            }
            if ready > 0 {
                let slices = outgoing.each_ref().map(|bytes| [IoSlice::new(bytes)]);
                let fd = self.socket.as_raw_fd();
                let (slices, targets) = (&slices[..ready], &targets[..ready]);
                let flags = MsgFlags::empty();
                if let Err(error) = sendmmsg(fd, &mut sent, slices, targets, [], flags) {
                    tracing::debug!(%error, "sending");
                }
            }
        }
    }

    fn answer(
        &mut self,
        zone: &Zone,
        message: &[u8],
        peer: SockaddrIn,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let mut name = [0; MOST_NAME_BYTES];
        let query = match wire::read(message, &mut name) {
            Ok(query) => query,
            Err(Unreadable::Ignore) => return Outcome::Nothing,
            Err(Unreadable::Answer(code)) => {
                answer::write_unreadable(message, code, out);
                return Outcome::Send;
            }
        };
        self.turn = self.turn.wrapping_add(1);
        let limit = udp_limit(&query);
        match resolve(zone, &query, self.turn) {
            Resolved::Known(parts) => answer::write(&query, &parts, limit, out),
            Resolved::Made(records) => {
                let parts =
                    Parts { authoritative: true, answers: Some(&records), ..Parts::default() };
                answer::write(&query, &parts, limit, out);
            }
            other => {
                let alias = match other {
                    Resolved::Alias(target) => Some(target.clone()),
                    _ => None,
                };
                let socket = self.socket.clone();
                let to = SocketAddr::V4(SocketAddrV4::new(peer.ip(), peer.port()));
                let job = Job::new(message, alias, limit, move |answer| {
                    // A client that is gone needs no answer.
                    drop(socket.send_to(answer, to));
                });
                match self.forwarder.submit(job) {
                    Ok(()) => return Outcome::Nothing,
                    Err(_full) => {
                        let parts = Parts { code: wire::code::SERVER_FAILURE, ..Parts::default() };
                        answer::write(&query, &parts, limit, out);
                    }
                }
            }
        }
        Outcome::Send
    }
}
