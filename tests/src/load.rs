//! A steady stream of HTTP requests, and what became of each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After this a request counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Senders; each keeps to its own share of the schedule.
const SENDERS: u32 = 8;

/// What a load saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests sent.
    pub sent: usize,
    /// What went wrong, a line each, with the time since the start.
    pub failures: Vec<String>,
    /// From sending to the last byte, of those that were answered, sorted.
    pub latencies: Vec<Duration>,
}

impl Report {
    /// The latency that the share `q` (0..=1) of requests stayed below.
    pub fn quantile(&self, q: f64) -> Duration {
        let index = ((self.latencies.len() as f64 - 1.0).max(0.0) * q).round() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

/// Requests that are being sent.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<Report>>,
}

impl Load {
    /// Sends `rate` requests a second for `host` to `address`, until [`Load::stop`]. Every second
    /// sender keeps its connection, the others open one a request.
    pub fn start(address: SocketAddr, host: &str, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicUsize::new(0));
        let begun = Instant::now();
        let pause = Duration::from_secs(1) * SENDERS / rate;
        let senders = (0..SENDERS)
            .map(|n| {
                let (stop, sent, host) = (stop.clone(), sent.clone(), host.to_owned());
                let first = begun + pause * n / SENDERS;
                std::thread::spawn(move || {
                    let schedule = Schedule { begun, first, pause };
                    send(&schedule, address, &host, n % 2 == 0, (&stop, &sent))
                })
            })
            .collect();
        Self { stop, sent, senders }
    }

    /// Requests sent until now.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the load; what it saw.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut whole = Report::default();
        for sender in self.senders {
            let part = sender.join().expect("a sender does not panic");
            whole.sent += part.sent;
            whole.failures.extend(part.failures);
            whole.latencies.extend(part.latencies);
        }
        whole.latencies.sort_unstable();
        whole
    }
}

struct Schedule {
    begun: Instant,
    first: Instant,
    pause: Duration,
}

fn send(
    schedule: &Schedule,
    address: SocketAddr,
    host: &str,
    keep: bool,
    (stop, count): (&AtomicBool, &AtomicUsize),
) -> Report {
    let mut report = Report::default();
    let mut kept: Option<BufReader<TcpStream>> = None;
    let mut next = schedule.first;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += schedule.pause;
        let sent = Instant::now();
        report.sent += 1;
        count.fetch_add(1, Ordering::Relaxed);
        match request(&mut kept, address, host, "/", keep) {
            Ok((200, _)) => report.latencies.push(sent.elapsed()),
            Ok((status, body)) => {
                let since = sent - schedule.begun;
                report.failures.push(format!("{since:?}: {status} {}", body.trim()));
            }
            Err(error) => {
                kept = None;
                let since = sent - schedule.begun;
                let how = if keep { "kept connection" } else { "new connection" };
                report.failures.push(format!("{since:?}: {error} ({how})"));
            }
        }
    }
    report
}

/// One GET on a connection of its own; status and body.
///
/// # Errors
/// When no whole answer comes.
pub fn get(address: SocketAddr, host: &str, path: &str) -> io::Result<(u16, String)> {
    get_with(address, host, path, "")
}

/// The same with more header lines, each with its end: `x-try: new\r\n`.
///
/// # Errors
/// When no whole answer comes.
pub fn get_with(
    address: SocketAddr,
    host: &str,
    path: &str,
    headers: &str,
) -> io::Result<(u16, String)> {
    let host = format!("{host}\r\n{}", headers.trim_end_matches("\r\n"));
    request(&mut None, address, host.trim_end(), path, false)
}

fn request(
    kept: &mut Option<BufReader<TcpStream>>,
    address: SocketAddr,
    host: &str,
    path: &str,
    keep: bool,
) -> io::Result<(u16, String)> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            BufReader::new(stream)
        }
    };
    let end = if keep { "keep-alive" } else { "close" };
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {end}\r\n\r\n");
    connection.get_mut().write_all(head.as_bytes())?;
    let (status, body, closes) = answer(&mut connection)?;
    if keep && !closes {
        *kept = Some(connection);
    }
    Ok((status, body))
}

/// Reads one answer: status, body, whether the connection closes after it.
fn answer(connection: &mut BufReader<TcpStream>) -> io::Result<(u16, String, bool)> {
    let line = line(connection)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no HTTP: {line:?}")))?;
    let (mut length, mut chunked, mut closes) = (None, false, false);
    loop {
        let line = self::line(connection)?.to_ascii_lowercase();
        match line.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => break,
            Some(("content-length", value)) => length = value.parse().ok(),
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            Some(("connection", value)) => closes = value == "close",
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size =
                u64::from_str_radix(&self::line(connection)?, 16).map_err(io::Error::other)?;
            connection.by_ref().take(size).read_to_end(&mut body)?;
            self::line(connection)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        if connection.by_ref().take(length).read_to_end(&mut body)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    } else {
        connection.read_to_end(&mut body)?;
        closes = true;
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned(), closes))
}

fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
