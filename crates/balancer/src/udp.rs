//! UDP flows from a door to endpoints.
//!
//! A flow is a client's address and port. Its first datagram picks an endpoint and opens a socket
//! towards it, whose own port tells the answers of this flow from others. It ends after a silence,
//! when its endpoint is none any more, or when that says that nobody listens there: the client's
//! next datagram begins another. Flows are bounded in number; when all are taken, datagrams of new
//! ones are dropped, as a network would.
//!
//! Datagrams are sent if there is room in the socket, and dropped if not.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval};

use crate::l7::pick::{self, OpenRequest, now_us};
use crate::streams::{Serving, Target, pick_for};

/// The longest datagram.
const LONGEST: usize = 65_535;
/// How often it is looked which flows have ended.
const SWEEP: Duration = Duration::from_secs(1);

/// A client and its endpoint.
struct Flow {
    socket: UdpSocket,
    open: OpenRequest,
    /// When a datagram went either way last, µs.
    used_us: AtomicU64,
    /// Nobody listens at the endpoint.
    ended: AtomicBool,
}

/// The tasks of a door's flows; they end with it.
struct Flows(berth_daemon::Tasks);

impl Drop for Flows {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Carries the datagrams of one door, for ever.
pub(crate) async fn serve(socket: UdpSocket, port: u16, serving: Serving) {
    let door = Arc::new(socket);
    let group = Flows(serving.tasks.child());
    let mut flows: HashMap<SocketAddr, (Arc<Flow>, berth_daemon::Tasks)> = HashMap::new();
    let mut buffer = vec![0; LONGEST];
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streams = serving.streams.load_full();
    loop {
        let received = tokio::select! {
            received = door.recv_from(&mut buffer) => received,
            _ = sweep.tick() => {
                let silent = u64::try_from(serving.config.flow_timeout.as_micros()).unwrap_or(u64::MAX);
                let now_us = now_us();
                retain(&mut flows, |flow| now_us < flow.used_us.load(Ordering::Relaxed).saturating_add(silent));
                continue;
            }
        };
        let (length, client) = match received {
            Ok(received) => received,
            // An ICMP error about an answer that we sent to a client that left.
            Err(error) => {
                tracing::trace!(%error, port, "receive");
                continue;
            }
        };
        let current = serving.streams.load();
        if !Arc::ptr_eq(&streams, &current) {
            streams = current.clone();
            let target = streams.udp.get(&port).map(|door| &door.target);
            retain(&mut flows, |flow| target.is_some_and(|target| is_behind(flow, target)));
        }
        let datagram = &buffer[..length];
        if let Some((flow, _)) = flows.get(&client)
            && !flow.ended.load(Ordering::Relaxed)
        {
            send(flow, datagram);
            continue;
        }
        if let Some((_, ended)) = flows.remove(&client) {
            ended.cancel();
        }
        let Some(target) = streams.udp.get(&port).map(|door| &door.target) else { continue };
        if flows.len() >= serving.config.max_flows {
            tracing::debug!(port, %client, "dropped: as many flows as may be");
            continue;
        }
        match begin(target, client).await {
            Ok(flow) => {
                let (flow, of_flow) = (Arc::new(flow), group.0.child());
                send(&flow, datagram);
                of_flow.spawn_until_stop("flow", answers(flow.clone(), door.clone(), client));
                flows.insert(client, (flow, of_flow));
            }
            Err(why) => tracing::debug!(of = target.name, %client, why, "dropped"),
        }
    }
}

/// Ends the flows that are not to stay.
fn retain(
    flows: &mut HashMap<SocketAddr, (Arc<Flow>, berth_daemon::Tasks)>,
    stays: impl Fn(&Flow) -> bool,
) {
    flows.retain(|_, (flow, task)| {
        let stays = stays(flow) && !flow.ended.load(Ordering::Relaxed);
        if !stays {
            task.cancel();
        }
        stays
    });
}

fn is_behind(flow: &Flow, target: &Target) -> bool {
    let address = flow.open.endpoint().address();
    target.sets().any(|set| set.endpoints().any(|endpoint| endpoint.address() == address))
}

async fn begin(target: &Target, client: SocketAddr) -> Result<Flow, String> {
    let open = pick_for(target.choose(pick::random())?, client, &[])?;
    let connected = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(SocketAddr::V4(open.endpoint().address())).await?;
        // Of a new socket it is not known yet that it has room: the first datagram would be lost.
        socket.writable().await?;
        io::Result::Ok(socket)
    };
    let socket = connected.await.map_err(|error| error.to_string())?;
    Ok(Flow { socket, open, used_us: AtomicU64::new(now_us()), ended: AtomicBool::new(false) })
}

fn send(flow: &Flow, datagram: &[u8]) {
    flow.used_us.store(now_us(), Ordering::Relaxed);
    if let Err(error) = flow.socket.try_send(datagram)
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        flow.refused();
    }
}

impl Flow {
    fn refused(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.open.refused();
        }
    }
}

/// Sends what the endpoint answers back to the client.
async fn answers(flow: Arc<Flow>, door: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = Vec::with_capacity(2048);
    let mut answered = false;
    loop {
        if flow.socket.readable().await.is_err() {
            return;
        }
        buffer.clear();
        buffer.reserve(LONGEST);
        match flow.socket.try_recv_buf(&mut buffer) {
            Ok(_) => {
                flow.used_us.store(now_us(), Ordering::Relaxed);
                if !answered {
                    answered = true;
                    flow.open.answered(true, None);
                }
                let _ = door.try_send_to(&buffer, client);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A flow that waits holds no buffer.
                buffer = Vec::new();
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    flow.refused();
                }
                return;
            }
        }
    }
}
