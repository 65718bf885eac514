//! A little web service: says its greeting, its version and where it runs.
//!
//! `PORT` (8080), `GREETING` ("hello") and `FAILS` (0) come from the environment. `/healthz` answers
//! 200 while it takes work and 503 once it was told to end; so many per cent as `FAILS` says of all
//! other requests get 500, to try what a canary's checks make of such a version. On SIGTERM it stops accepting, finishes what is
//! open and exits with 0.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const MOST_CONNECTIONS: usize = 512;
const MOST_HEADER_BYTES: u64 = 16 * 1024;
/// How long a connection may be idle; also how often one looks whether the end has come.
const TICK: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(20);

struct Service {
    greeting: String,
    host: String,
    /// Per cent of requests that get 500.
    fails: usize,
    asked: AtomicUsize,
    ending: AtomicBool,
    open: AtomicUsize,
}

fn main() -> io::Result<()> {
    let port: u16 = match std::env::var("PORT").map(|port| port.parse()) {
        Ok(Ok(port)) => port,
        Ok(Err(_)) => return Err(io::Error::other("PORT is not a port number")),
        Err(_) => 8080,
    };
    let service = Arc::new(Service {
        greeting: std::env::var("GREETING").unwrap_or_else(|_| "hello".into()),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned(),
        fails: std::env::var("FAILS").ok().and_then(|fails| fails.parse().ok()).unwrap_or(0),
        asked: AtomicUsize::new(0),
        ending: AtomicBool::new(false),
        open: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("hello {} listens on port {port}", env!("CARGO_PKG_VERSION"));

    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let told = service.clone();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            told.ending.store(true, Ordering::SeqCst);
            // Wakes the accept below.
            drop(TcpStream::connect(("127.0.0.1", port)));
        }
    });

    for stream in listener.incoming() {
        if service.ending.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        if service.open.fetch_add(1, Ordering::SeqCst) >= MOST_CONNECTIONS {
            service.open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let service = service.clone();
        std::thread::spawn(move || {
            drop(converse(&service, &stream));
            service.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    drop(listener);
    let deadline = Instant::now() + DRAIN;
    while service.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(TICK / 10);
    }
    println!("hello ends");
    Ok(())
}

/// Answers requests on one connection until either side has had enough.
fn converse(service: &Service, stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream);
    loop {
        if !wait_for_request(service, &mut input)? {
            return Ok(());
        }
        stream.set_read_timeout(Some(IDLE))?;
        let Some(request) = read_request(&mut input)? else { return Ok(()) };
        let close = request.close || service.ending.load(Ordering::SeqCst);
        let mut output = stream;
        output.write_all(answer(service, &request, close).as_bytes())?;
        if request.path != "/healthz" {
            println!("{} {}", request.method, request.path);
        }
        if close {
            return Ok(());
        }
        stream.set_read_timeout(Some(TICK))?;
    }
}

/// Whether another request has begun; false when the peer is gone, idle too long, or the end came.
fn wait_for_request(service: &Service, input: &mut BufReader<&TcpStream>) -> io::Result<bool> {
    let deadline = Instant::now() + IDLE;
    loop {
        match input.fill_buf() {
            Ok(bytes) => return Ok(!bytes.is_empty()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if service.ending.load(Ordering::SeqCst) || Instant::now() > deadline {
                    return Ok(false);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

struct Request {
    method: String,
    path: String,
    close: bool,
}

/// Reads a request's head and skips its body; `None` when it is not HTTP.
fn read_request(input: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut head = io::Read::take(&mut *input, MOST_HEADER_BYTES);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let mut request =
        Request { method: method.to_owned(), path: path.to_owned(), close: version != "HTTP/1.1" };
    let mut body_bytes = 0u64;
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { return Ok(None) };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" => request.close |= value.eq_ignore_ascii_case("close"),
            "content-length" => body_bytes = value.parse().map_err(io::Error::other)?,
            "transfer-encoding" => request.close = true, // not read, so not to be gone past
            _ => {}
        }
    }
    io::copy(&mut io::Read::take(&mut *input, body_bytes), &mut io::sink())?;
    Ok(Some(request))
}

/// Whether this request is one of those that fail, evenly among the others.
fn fails(service: &Service) -> bool {
    let asked = service.asked.fetch_add(1, Ordering::Relaxed);
    asked.wrapping_mul(service.fails) % 100 < service.fails
}

fn answer(service: &Service, request: &Request, close: bool) -> String {
    let (status, body) = match request.path.split('?').next() {
        Some("/healthz") if service.ending.load(Ordering::SeqCst) => {
            ("503 Service Unavailable", "ending\n".to_owned())
        }
        Some("/healthz") => ("200 OK", "ok\n".to_owned()),
        _ if fails(service) => {
            ("500 Internal Server Error", "fails, as it was told to\n".to_owned())
        }
        Some("/") => (
            "200 OK",
            format!(
                "{} from {}, version {}\n",
                service.greeting,
                service.host,
                env!("CARGO_PKG_VERSION")
            ),
        ),
        _ => ("404 Not Found", "nothing here\n".to_owned()),
    };
    let connection = if close { "close" } else { "keep-alive" };
    let length = body.len();
    let body = if request.method == "HEAD" { "" } else { body.as_str() };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
    )
}
