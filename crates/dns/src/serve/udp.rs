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
use super::{shared, slow};
use crate::StartError;
use crate::answer::{MAX_UDP, Outcome, Transport, Via, refuse, reject, respond};
use crate::asked::Asked;
use crate::counts::{Counts, Tally};
use crate::forward::{Freshness, Hit, Hot, Kept, failure};
use crate::query::{self, Query, Refused, code, flag};
use crate::served::Served;
use crate::zone::{Layers, Located};

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

/// One query of so many is counted for `berth dns top`.
const TOP_SAMPLE: u32 = 16;
/// No place in a table.
const NOWHERE: u32 = u32::MAX;

/// A question that another one must answer.
struct Waiting {
    packet: Vec<u8>,
    /// `None` where only the answer to be kept is wanted.
    client: Option<SocketAddr>,
}

/// How many threads there are for UDP.
pub(crate) fn threads(wanted: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.unwrap_or(cores).clamp(1, MOST_THREADS)
}

/// Opens the port and answers in threads, one for each of the counts, that end with `tasks`.
pub(crate) fn udp(
    address: SocketAddr,
    served: &Arc<Served>,
    (answers, rate): (usize, u32),
    tasks: &Tasks,
) -> Result<(), StartError> {
    for (number, counts) in served.counts.iter().enumerate() {
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
            forward_all(Arc::clone(&socket), queue, Arc::clone(served), keep),
        );
        let (served, counts) = (Arc::clone(served), Arc::clone(counts));
        let thread = Thread { socket, stop, served, waiting, new, counts, answers, rate };
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
    Ok(())
}

struct Thread {
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    served: Arc<Served>,
    waiting: mpsc::Sender<Waiting>,
    new: Receiver<Kept>,
    counts: Arc<Counts>,
    answers: usize,
    rate: u32,
}

/// What one thread knows besides what all know.
struct State {
    hot: Hot,
    limits: Limits,
    tops: Sampler,
    log: Sampler,
}

/// Draws one of so many on average, without a pattern that queries could have too.
struct Sampler {
    every: u32,
    left: u32,
    random: u64,
}

impl Sampler {
    /// One of `every`; none for 0.
    fn new(every: u32) -> Self {
        Self { every, left: every, random: rand::random::<u64>() | 1 }
    }

    /// Whether one of the next `count` is drawn.
    fn is_due(&self, count: usize) -> bool {
        self.every > 0 && (self.left as usize) <= count
    }

    /// Whether this one is drawn.
    #[inline]
    fn draw(&mut self) -> bool {
        if self.left > 1 || self.every == 0 {
            self.left = self.left.saturating_sub(1);
            return false;
        }
        // xorshift64*, Vigna 2016; from 1 to twice the mean, less one.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let span = u64::from(self.every) * 2 - 1;
        let drawn = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        self.left = 1 + ((drawn * span) >> 32) as u32;
        true
    }
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
        let mut zone = self.served.zone.get();
        let (hot, limits) = (Hot::new(self.answers), Limits::new(self.rate));
        let log = self.served.log.as_ref().map_or(0, |log| log.sample);
        let mut state =
            State { hot, limits, tops: Sampler::new(TOP_SAMPLE), log: Sampler::new(log) };
        let mut flushed = 0;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            match buffers.receive(&self.socket) {
                Ok(count) => {
                    if let Some(newer) = self.served.zone.newer_than(&mut seen) {
                        zone = newer;
                    }
                    let flushes = self.counts.flushes.load(Ordering::Relaxed);
                    if std::mem::replace(&mut flushed, flushes) != flushes {
                        state.hot.clear();
                    }
                    self.new.try_iter().take(MOST_NEW).for_each(|kept| state.hot.put(kept));
                    let replies = self.answer(&zone, &mut state, &mut buffers, count);
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
        state: &mut State,
        buffers: &mut Buffers,
        count: usize,
    ) -> usize {
        let now = Instant::now();
        let own = self.served.own.load();
        let State { hot, limits, tops, log } = state;
        let mut tally = Tally::default();
        let mut top = if tops.is_due(count) { self.counts.top.try_lock().ok() } else { None };
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
        let mut sent = 0;
        for index in 0..count {
            let packet = &queries[index][..lengths[index]];
            let out = &mut replies[sent];
            let client = clients[index].as_ref().and_then(socket_address);
            let Some(client) = client else { continue };
            let via = Via { transport: Transport::Udp, client: client.ip(), own: &own };
            let asked = &asked[index];
            let parsed = &parsed[index];
            tally.request(client.ip(), parsed.ok().map(|query| query.kind), packet.len());
            if tops.draw()
                && let (Some(top), Ok(_)) = (&mut top, parsed)
            {
                top.names.add(asked.name(), u64::from(TOP_SAMPLE));
                top.clients.add(&client.ip().to_canonical(), u64::from(TOP_SAMPLE));
            }
            let mut judged = false;
            let outcome = match parsed {
                // Signatures are checked where there is time for it.
                Ok(query) if query.signed => Outcome::Forward,
                Ok(query) => respond(zone, located[index], query, asked, via, out),
                Err(Refused::With { flags, .. }) if flags & flag::OPCODE == flag::NOTIFY => {
                    if !limits.is_on() || limits.judge(client.ip(), now) == Verdict::Send {
                        drop(self.forward(packet, Some(client)));
                    }
                    continue;
                }
                Err(refused) => reject(*refused, out),
            };
            let length = match (outcome, parsed) {
                (Outcome::Reply(length), _) => length,
                (Outcome::Drop, _) | (Outcome::Forward, Err(_)) => continue,
                (Outcome::Forward, Ok(query)) => {
                    let place = match located[index].is_foreign() {
                        _ if query.signed => NOWHERE,
                        true => places[index],
                        false => hot.locate(query, asked).unwrap_or(NOWHERE),
                    };
                    match hot.answer(place, (query, asked), via, now, out) {
                        Hit::Reply(length) => {
                            tally.hits += 1;
                            length
                        }
                        Hit::Renew(length) => {
                            tally.hits += 1;
                            // Where no room is left it ends, and is asked for when it is wanted.
                            let _ = self.forward(packet, None);
                            length
                        }
                        Hit::None => {
                            // The answer will not come by here: what is over the rate is not asked.
                            judged = limits.is_on();
                            let allowed = match judged {
                                true => limited(Some(query), MAX_UDP, via, limits, now, out),
                                false => MAX_UDP,
                            };
                            if allowed == MAX_UDP {
                                tally.forwarded += 1;
                                match self.forward(packet, Some(client)) {
                                    Ok(()) => continue,
                                    // Too many wait already: what is old is better than nothing, and
                                    // without it the client may ask the next server.
                                    Err(refusal) => {
                                        let asked = (query, asked);
                                        let stale = hot.stale(place, asked, via, now, out);
                                        stale.unwrap_or_else(|| {
                                            tally.refused += 1;
                                            out[..refusal.len()].copy_from_slice(&refusal);
                                            refusal.len()
                                        })
                                    }
                                }
                            } else {
                                // What is dropped is counted below.
                                tally.limited += u64::from(allowed > 0);
                                allowed
                            }
                        }
                    }
                }
            };
            let length = match limits.is_on() && !judged {
                true => {
                    let allowed = limited(parsed.as_ref().ok(), length, via, limits, now, out);
                    tally.limited += u64::from(allowed > 0 && allowed != length);
                    allowed
                }
                false => length,
            };
            if length == 0 {
                tally.dropped += 1;
                continue;
            }
            tally.response(&out[..length]);
            if log.draw()
                && let (Some(log), Ok(query)) = (&self.served.log, parsed)
            {
                let asked = (query, packet.len());
                log.push((client, "udp"), asked, &out[..length], now.elapsed());
            }
            reply_lengths[sent] = length;
            targets[sent] = clients[index];
            sent += 1;
        }
        // All of a batch wait for its last.
        tally.took(sent as u64, now.elapsed());
        self.counts.add(&tally, hot.len());
        sent
    }

    fn forward(&self, packet: &[u8], client: Option<SocketAddr>) -> Result<(), Vec<u8>> {
        let sent = self.waiting.try_send(Waiting { packet: packet.to_vec(), client });
        sent.or_else(|_| failure(packet, code::SERVER_FAILURE).map_or(Ok(()), Err))
    }
}

/// The answer of `length` bytes as the limits allow it; 0 for none.
fn limited(
    query: Option<&Query<'_>>,
    length: usize,
    via: Via<'_>,
    limits: &mut Limits,
    now: Instant,
    out: &mut [u8; MAX_UDP],
) -> usize {
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
    served: Arc<Served>,
    keep: SyncSender<Kept>,
) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = queue.recv(), if under_way.len() < MOST_FORWARDED => {
                let Some(Waiting { packet, client }) = next else { return };
                let (socket, served, keep) = (&socket, &served, &keep);
                under_way.push(async move {
                    let wanted = if client.is_some() { Freshness::Kept } else { Freshness::New };
                    let answered = match client {
                        Some(client) => slow::answer(served, &packet, client.ip(), Transport::Udp).await,
                        None => served.forward.answer(&packet, Transport::Udp, wanted).await,
                    };
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
