//! Whether addresses that a policy wants checked can be reached: a TCP connection, or an HTTP
//! request besides. What balancers find is another part ([`crate::balancers`]).
//!
//! An address is checked as long as any set of records holds its [`Checked`], and once however many
//! do. Answering reads one flag. Down after [`FAILURES`] checks in a row that failed, up after one
//! that did not; until the first check it is taken to be up.
//!
//! Refuses: checks that objects in a cluster ask for. Who may write a Service could have any address
//! asked otherwise; so only the server's own settings say what is checked.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::Duration;

use berth_daemon::Tasks;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::balancers::Found;

/// How often each is checked.
const EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(1);
/// Checks in a row that must fail: one may be lost.
const FAILURES: u32 = 2;
/// Checks under way at a time.
const MOST: usize = 64;
/// `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// How an address is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Check {
    /// The TCP port that must take a connection.
    pub port: u16,
    /// What `GET` must be answered for with a status from 200 to 399; none: connecting is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Whom to ask whether addresses are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Healthy {
    /// The balancers of the server's settings: what they do not find down.
    Balancer,
}

/// What decides whether one address may be given.
#[derive(Debug)]
pub(crate) struct Health {
    checked: Option<Arc<Checked>>,
    found: Option<Arc<Found>>,
}

impl Health {
    /// As a policy wants it of an address.
    pub(crate) fn of(ip: IpAddr, check: Option<&Check>, healthy: Option<Healthy>) -> Self {
        Self {
            checked: check.map(|check| Checked::of(ip, check)),
            found: healthy.map(|Healthy::Balancer| Found::of(ip)),
        }
    }

    /// Whether nobody who is asked says no.
    pub(crate) fn is_up(&self) -> bool {
        self.checked.as_ref().is_none_or(|checked| checked.is_up())
            && self.found.as_ref().is_none_or(|found| found.is_up())
    }
}

/// One address with what its checks said.
#[derive(Debug)]
pub(crate) struct Checked {
    ip: IpAddr,
    check: Check,
    /// In a row.
    failures: AtomicU32,
}

/// All that are held by somebody. One table for the process: it is about addresses, whoever serves
/// them.
static ALL: LazyLock<Mutex<All>> = LazyLock::new(Mutex::default);

type All = HashMap<(IpAddr, Check), Weak<Checked>>;

impl Checked {
    /// The one of that address.
    pub(crate) fn of(ip: IpAddr, check: &Check) -> Arc<Self> {
        let mut all = ALL.lock().expect("no holder of the lock panics");
        let held = all.entry((ip, check.clone())).or_default();
        held.upgrade().unwrap_or_else(|| {
            let new = Self { ip, check: check.clone(), failures: AtomicU32::new(0) };
            let new = Arc::new(new);
            *held = Arc::downgrade(&new);
            new
        })
    }

    /// Whether it may be given.
    pub(crate) fn is_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES
    }

    fn note(&self, checked: io::Result<()>) {
        let address = SocketAddr::new(self.ip, self.check.port);
        match checked {
            Ok(()) => {
                if self.failures.swap(0, Ordering::Relaxed) >= FAILURES {
                    tracing::info!(%address, "is up again");
                }
            }
            Err(error) => {
                let before = self.failures.load(Ordering::Relaxed);
                self.failures.store(before.saturating_add(1), Ordering::Relaxed);
                if before + 1 == FAILURES {
                    tracing::warn!(%address, %error, "is down, not given any more");
                }
            }
        }
    }
}

/// Checks until `tasks` end.
pub(crate) fn run(tasks: &Tasks) {
    tasks.spawn_until_stop("checks", async {
        let mut turns = tokio::time::interval(EVERY);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let checking = held().into_iter().map(|one| async move {
                let asked = timeout(PATIENCE, ask(one.ip, &one.check)).await;
                one.note(asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
            });
            futures::stream::iter(checking).for_each_concurrent(MOST, |check| check).await;
        }
    });
}

/// Those that somebody holds; the others are forgotten.
fn held() -> Vec<Arc<Checked>> {
    let mut all = ALL.lock().expect("no holder of the lock panics");
    all.retain(|_, one| one.strong_count() > 0);
    all.values().filter_map(Weak::upgrade).collect()
}

async fn ask(ip: IpAddr, check: &Check) -> io::Result<()> {
    let mut stream = TcpStream::connect((ip, check.port)).await?;
    let Some(path) = &check.path else { return Ok(()) };
    let host = SocketAddr::new(ip, check.port);
    // 1.0: the connection is closed behind the answer.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: berth-dns\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = [0; STATUS_LINE];
    stream.read_exact(&mut line).await?;
    match status(&line) {
        Some(200..400) => Ok(()),
        Some(status) => Err(io::Error::other(format!("status {status}"))),
        None => Err(io::Error::other("no HTTP")),
    }
}

fn status(line: &[u8; STATUS_LINE]) -> Option<u16> {
    let (version, code) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    version.strip_prefix("HTTP/1.")?;
    code.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::net::TcpListener;

    #[test]
    fn a_status_is_read_from_its_line_alone() {
        for (line, expected) in [
            (b"HTTP/1.1 200", Some(200)),
            (b"HTTP/1.0 503", Some(503)),
            (b"HTTP/2.0 200", None),
            (b"HTTP/1.1 2x0", None),
            (b"SSH-2.0-Open", None),
        ] {
            assert_eq!(status(line), expected);
        }
    }

    #[tokio::test]
    async fn two_failures_take_an_address_out_and_one_success_brings_it_back() {
        let [port] = berth_tests::free_ports().expect("a port");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(address).await.expect("it is free");
        let check = Check { port, path: None };
        let one = Checked::of(address.ip(), &check);
        assert!(Arc::ptr_eq(&one, &Checked::of(address.ip(), &check)), "checked once");
        let failed = || Err(io::ErrorKind::TimedOut.into());
        one.note(failed());
        assert!(one.is_up(), "one may be lost");
        one.note(failed());
        assert!(!one.is_up());
        one.note(ask(address.ip(), &check).await);
        assert!(one.is_up());
        drop(listener);
        assert!(ask(address.ip(), &check).await.is_err(), "nobody listens");
    }

    #[tokio::test]
    async fn a_path_must_be_answered_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serve = async {
            for said in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 500 Oh\r\n\r\n", "hi"] {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut asked = [0; 256];
                let length = stream.read(&mut asked).await.expect("a request");
                assert!(asked[..length].starts_with(b"GET /healthz HTTP/1.0\r\n"));
                stream.write_all(said.as_bytes()).await.expect("it is sent");
            }
        };
        let check = Check { port: address.port(), path: Some("/healthz".into()) };
        let asking = async {
            assert!(ask(address.ip(), &check).await.is_ok());
            for expected in ["status 500", "early eof"] {
                let error = ask(address.ip(), &check).await.expect_err("it is not well");
                assert_eq!(error.to_string(), expected);
            }
        };
        tokio::join!(serve, asking);
    }
}
