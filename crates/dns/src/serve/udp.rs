//! The answering path: one thread a core, each with a socket of its own on the shared port.
//!
//! ```text
//! recvmmsg (≤ 64 queries) ─▶ answer each from the zone ─▶ sendmmsg
//!                                       └─ not ours ─▶ bounded queue ─▶ forward task ─▶ send
//! ```
//!
//! Nothing is allocated for a cluster name. The kernel spreads queries over the sockets by a hash of
//! the addresses, so a client's queries stay on one thread.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use berth_daemon::Tasks;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendto};
use socket2::Type;
use tokio::sync::mpsc;

use super::limit::{Limits, Verdict};
use super::shared;
use crate::StartError;
use crate::answer::{MAX_UDP, Outcome, Transport, Via, refuse, reject, respond};
use crate::asked::Asked;
use crate::counts::Counts;
use crate::forward::{Forward, Freshness, Hit, Hot, Kept, failure};
use crate::own::Own;
use crate::query::{self, Query, Refused, code, flag};
use crate::zone::{Current, Layers, Located};

/// Queries taken at a time. More would only wait longer for each other.
const BATCH: usize = 64;
/// Longer queries are cut off and then refused; real ones are a tenth of it.
const MOST_QUERY: usize = 1232;
/// A thread that waits for queries looks this often whether it is to end.
const STOP_SEEN: Duration = Duration::from_millis(500);
/// What the kernel may hold while all threads are busy.
const RECEIVE_BUFFER: usize = 1 << 20;
const MOST_THREADS: usize = 16;
/// Questions that wait to be forwarded, and that are under way, for each thread.
const MOST_WAITING: usize = 512;
const MOST_FORWARDED: usize = 256;

/// Answers that wait to be taken in by a thread; one more is only not kept there.
const MOST_NEW: usize = 1024;

/// No place in a table.
const NOWHERE: u32 = u32::MAX;

/// A question that another one must answer.
struct Waiting {
    packet: Vec<u8>,
    /// `None` where only the answer to be kept is wanted.
    client: Option<SocketAddr>,
}

/// Opens the port and answers in threads that end with `tasks`.
pub(crate) fn udp(
    address: SocketAddr,
    threads: Option<usize>,
    (zone, forward): (Arc<Current>, Arc<Forward>),
    own: Arc<Own>,
    (answers, rate): (usize, u32),
    tasks: &Tasks,
) -> Result<Vec<Arc<Counts>>, StartError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.unwrap_or(cores).clamp(1, MOST_THREADS);
    let counts: Vec<Arc<Counts>> = (0..threads).map(|_| Arc::default()).collect();
    for number in 0..threads {
        let open = || {
            let socket = shared(address, Type::DGRAM)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            // One system call fewer for each batch than to wait and then to receive.
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(STOP_SEEN))?;
            Ok(UdpSocket::from(socket))
        };
        let socket =
            open().map_err(|source| StartError::Listen { address, protocol: "UDP", source })?;
        let socket = Arc::new(socket);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (waiting, queue) = mpsc::channel(MOST_WAITING);
        let (keep, new) = sync_channel(MOST_NEW);
        tasks.spawn_until_stop(
            "forward",
            forward_all(Arc::clone(&socket), queue, Arc::clone(&forward), keep),
        );
        let counts = Arc::clone(&counts[number]);
        let thread = Thread {
            socket,
            stop,
            zone: Arc::clone(&zone),
            own: Arc::clone(&own),
            waiting,
            new,
            counts,
            answers,
            rate,
        };
        let thread = std::thread::Builder::new()
            .name(format!("dns-{number}"))
            .spawn(move || thread.run())
            .map_err(StartError::Thread)?;
        let inner = tasks.clone();
        tasks.spawn("dns thread", async move {
            inner.stopping().await;
            stopped.store(true, Ordering::Relaxed);
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        });
    }
    Ok(counts)
}

struct Thread {
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    zone: Arc<Current>,
    own: Arc<Own>,
    waiting: mpsc::Sender<Waiting>,
    new: Receiver<Kept>,
    counts: Arc<Counts>,
    answers: usize,
    rate: u32,
}

/// What one thread works in; allocated once.
struct Buffers {
    queries: Box<[[u8; MOST_QUERY]; BATCH]>,
    lengths: [usize; BATCH],
    clients: [Option<SockaddrStorage>; BATCH],
    replies: Box<[[u8; MAX_UDP]; BATCH]>,
    reply_lengths: [usize; BATCH],
    targets: [Option<SockaddrStorage>; BATCH],
    asked: Box<[Asked]>,
    receive: MultiHeaders<SockaddrStorage>,
    send: MultiHeaders<SockaddrStorage>,
}

impl Buffers {
    fn new() -> Self {
        Self {
            queries: Box::new([[0; MOST_QUERY]; BATCH]),
            lengths: [0; BATCH],
            clients: [None; BATCH],
            replies: Box::new([[0; MAX_UDP]; BATCH]),
            reply_lengths: [0; BATCH],
            targets: [None; BATCH],
            asked: vec![Asked::root(); BATCH].into(),
            receive: MultiHeaders::preallocate(BATCH, None),
            send: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Waits for queries, and says how many came.
    fn receive(&mut self, socket: &UdpSocket) -> nix::Result<usize> {
        let mut slices = self.queries.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let came = recvmmsg(socket.as_raw_fd(), &mut self.receive, slices.iter_mut(), flags, None)?;
        let mut count = 0;
        for message in came {
            self.lengths[count] = message.bytes;
            self.clients[count] = message.address;
            count += 1;
        }
        Ok(count)
    }

    /// Sends the first `count` replies; one that the kernel refuses is left out.
    fn send(&mut self, socket: &UdpSocket, count: usize) {
        let mut sent = 0;
        while sent < count {
            let replies = self.replies[sent..count].iter().zip(&self.reply_lengths[sent..count]);
            let mut slices: [[IoSlice<'_>; 1]; BATCH] =
                std::array::from_fn(|_| [IoSlice::new(&[])]);
            for (slice, (reply, length)) in slices.iter_mut().zip(replies) {
                *slice = [IoSlice::new(&reply[..*length])];
            }
            let result = sendmmsg(
                socket.as_raw_fd(),
                &mut self.send,
                &slices[..count - sent],
                &self.targets[sent..count],
                [],
                MsgFlags::MSG_DONTWAIT,
            );
            sent += match result {
                Ok(done) => done.count().max(1),
                Err(Errno::EINTR) => 0,
                Err(_) => 1,
            };
        }
    }
}

impl Thread {
    fn run(self) {
        let mut buffers = Buffers::new();
        let mut seen = 0;
        let mut zone = self.zone.get();
        let mut hot = Hot::new(self.answers);
        let mut limits = Limits::new(self.rate);
        let mut flushed = 0;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            match buffers.receive(&self.socket) {
                Ok(count) => {
                    if let Some(newer) = self.zone.newer_than(&mut seen) {
                        zone = newer;
                    }
                    let flushes = self.counts.flushes.load(Ordering::Relaxed);
                    if std::mem::replace(&mut flushed, flushes) != flushes {
                        hot.clear();
                    }
                    self.new.try_iter().take(MOST_NEW).for_each(|kept| hot.put(kept));
                    let replies = self.answer(&zone, (&mut hot, &mut limits), &mut buffers, count);
                    buffers.send(&self.socket, replies);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // Such as an ICMP error of an earlier answer: it says nothing of this socket.
                Err(error) => tracing::debug!(%error, "nothing received"),
            }
        }
    }

    /// Answers a batch in steps that each go over all of it: memory that one query waits for is
    /// on its way for the others too.
    fn answer(
        &self,
        zone: &Layers,
        (hot, limits): (&mut Hot, &mut Limits),
        buffers: &mut Buffers,
        count: usize,
    ) -> usize {
        let now = Instant::now();
        let Buffers { queries, lengths, clients, replies, reply_lengths, targets, asked, .. } =
            buffers;
        let mut parsed = [const { Err(Refused::Silently) }; BATCH];
        let mut located = [Located::default(); BATCH];
        for index in 0..count {
            parsed[index] = query::parse(&queries[index][..lengths[index]]);
            if let Ok(query) = &parsed[index] {
                asked[index].read(query.name);
                located[index] = zone.locate(&asked[index]);
            }
        }
        let mut places = [NOWHERE; BATCH];
        for index in 0..count {
            let Ok(query) = &parsed[index] else { continue };
            places[index] = match located[index].is_foreign() {
                true => hot.locate(query, &asked[index]).unwrap_or(NOWHERE),
                false => located[index].touch(&asked[index]),
            };
        }
        let mut near = 0;
        for index in 0..count {
            near ^= match located[index].is_foreign() {
                true => hot.touch(places[index]),
                false => located[index].touch_entry(&asked[index], places[index]),
            };
        }
        // What was read is of no use itself; it must be read all the same.
        std::hint::black_box(near);
        let (mut sent, mut hits, mut forwarded) = (0, 0, 0);
        for index in 0..count {
            let packet = &queries[index][..lengths[index]];
            let out = &mut replies[sent];
            let client = clients[index].as_ref().and_then(socket_address);
            let Some(client) = client else { continue };
            let via = Via { transport: Transport::Udp, client: client.ip(), own: &self.own };
            let asked = &asked[index];
            let outcome = match parsed[index] {
                Ok(query) => respond(zone, located[index], &query, asked, via, out),
                Err(refused) => reject(refused, out),
            };
            let length = match (outcome, &parsed[index]) {
                (Outcome::Reply(length), _) => length,
                (Outcome::Drop, _) | (Outcome::Forward, Err(_)) => continue,
                (Outcome::Forward, Ok(query)) => {
                    let place = match located[index].is_foreign() {
                        true => places[index],
                        false => hot.locate(query, asked).unwrap_or(NOWHERE),
                    };
                    match hot.answer(place, (query, asked), via, now, out) {
                        Hit::Reply(length) => {
                            hits += 1;
                            length
                        }
                        Hit::Renew(length) => {
                            hits += 1;
                            // Where no room is left it ends, and is asked for when it is wanted.
                            let _ = self.forward(packet, None);
                            length
                        }
                        Hit::None => {
                            forwarded += 1;
                            match self.forward(packet, Some(client)) {
                                Ok(()) => continue,
                                // Too many wait already: the client may ask the next server.
                                Err(refusal) => {
                                    out[..refusal.len()].copy_from_slice(&refusal);
                                    refusal.len()
                                }
                            }
                        }
                    }
                }
            };
            let length = match limits.is_on() {
                true => limited(&parsed[index], length, via, limits, now, out),
                false => length,
            };
            if length == 0 {
                continue;
            }
            reply_lengths[sent] = length;
            targets[sent] = clients[index];
            sent += 1;
        }
        self.counts.add(count, hits, forwarded, hot.len());
        sent
    }

    fn forward(&self, packet: &[u8], client: Option<SocketAddr>) -> Result<(), Vec<u8>> {
        let sent = self.waiting.try_send(Waiting { packet: packet.to_vec(), client });
        sent.or_else(|_| failure(packet, code::SERVER_FAILURE).map_or(Ok(()), Err))
    }
}

/// The answer of `length` bytes as the limits allow it; 0 for none.
fn limited(
    query: &Result<Query<'_>, Refused<'_>>,
    length: usize,
    via: Via<'_>,
    limits: &mut Limits,
    now: Instant,
    out: &mut [u8; MAX_UDP],
) -> usize {
    let query = query.as_ref().ok();
    let known = query.and_then(|query| query.edns);
    if known.is_some_and(|edns| via.own.is_known(&edns, via.client)) {
        return length;
    }
    match (limits.judge(via.client, now), query) {
        (Verdict::Send, _) => length,
        (Verdict::Truncate, Some(query)) => match refuse(query, code::OK, out) {
            Outcome::Reply(length) => {
                out[2] |= (flag::TRUNCATED >> 8) as u8;
                length
            }
            _ => 0,
        },
        _ => 0,
    }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

/// Forwards what the thread of `socket` cannot answer, a bounded number at a time.
async fn forward_all(
    socket: Arc<UdpSocket>,
    mut queue: mpsc::Receiver<Waiting>,
    forward: Arc<Forward>,
    keep: SyncSender<Kept>,
) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = queue.recv(), if under_way.len() < MOST_FORWARDED => {
                let Some(Waiting { packet, client }) = next else { return };
                let (socket, forward, keep) = (&socket, &forward, &keep);
                under_way.push(async move {
                    let wanted = if client.is_some() { Freshness::Kept } else { Freshness::New };
                    let answered = forward.answer(&packet, Transport::Udp, wanted).await;
                    let Some(answered) = answered else { return };
                    if let Some(kept) = answered.kept {
                        let _ = keep.try_send(kept);
                    }
                    if let Some(client) = client {
                        // A full send buffer loses the answer, as the network may: it is asked again.
                        let to = SockaddrStorage::from(client);
                        let flags = MsgFlags::MSG_DONTWAIT;
                        let _ = sendto(socket.as_raw_fd(), &answered.bytes, &to, flags);
                    }
                });
            }
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
        }
    }
}
