//! Some of the queries, written to a file that is exchanged when it is large.
//!
//! Threads hand what they sampled to a writer through a bounded queue and never wait: what finds
//! no room is counted and left out. A line is what CoreDNS' `log` writes, so that what reads the
//! one reads the other. SIGHUP opens the file anew, as logrotate expects.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use domain::base::Rtype;

use crate::counts::CODES;
use crate::name;
use crate::query::{Query, flag};

/// Lines that wait to be written.
const MOST_WAITING: usize = 4096;
/// What was written is on its way to the disk after this time.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Files kept beside the one that is written.
const KEPT: u32 = 3;

/// Where some of the queries are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryLog {
    /// The file.
    pub path: PathBuf,
    /// One query of so many is written; 1 for all.
    pub sample: u32,
    /// A file of so many bytes is moved to `PATH.1` and a new one begun.
    pub most_bytes: u64,
}

/// The threads' side.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    lines: SyncSender<Line>,
    pub sample: u32,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicU64>,
}

/// One query and its answer.
#[derive(Debug)]
pub(crate) struct Line {
    client: SocketAddr,
    protocol: &'static str,
    id: u16,
    kind: u16,
    name: Box<[u8]>,
    size: usize,
    dnssec: bool,
    payload: u16,
    flags: u16,
    reply: usize,
    time: Duration,
    at: SystemTime,
}

impl Writer {
    /// Opens the file and writes in a thread that ends with the last writer.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(crate) fn open(log: &QueryLog) -> std::io::Result<Self> {
        let (lines, queue) = sync_channel(MOST_WAITING);
        let reopen = Arc::new(AtomicU64::new(0));
        let out = Out::open(log.path.clone(), log.most_bytes)?;
        let seen = Arc::clone(&reopen);
        std::thread::Builder::new()
            .name("dns-query-log".into())
            .spawn(move || write(&queue, out, &seen))?;
        Ok(Self { lines, sample: log.sample.max(1), lost: Arc::default(), reopen })
    }

    /// Hands a query on, with the answer that it got after `time`.
    pub(crate) fn push(
        &self,
        (client, protocol): (SocketAddr, &'static str),
        (query, size): (&Query<'_>, usize),
        reply: &[u8],
        time: Duration,
    ) {
        let flags = reply.get(2..4).map_or(0, |flags| u16::from_be_bytes([flags[0], flags[1]]));
        let line = Line {
            client,
            protocol,
            id: query.id,
            kind: query.kind,
            name: query.name.into(),
            size,
            dnssec: query.edns.is_some_and(|edns| edns.dnssec),
            payload: query.edns.map_or(512, |edns| edns.payload),
            flags,
            reply: reply.len(),
            time,
            at: SystemTime::now(),
        };
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Opens the file anew, after somebody moved it away.
    pub(crate) fn reopen(&self) {
        self.reopen.fetch_add(1, Ordering::Relaxed);
    }
}

struct Out {
    path: PathBuf,
    most: u64,
    file: BufWriter<File>,
    written: u64,
}

impl Out {
    fn open(path: PathBuf, most: u64) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, most: most.max(4096), file: BufWriter::new(file), written })
    }

    fn line(&mut self, line: &Line) -> std::io::Result<()> {
        let text = line.text();
        if self.written + text.len() as u64 > self.most && self.written > 0 {
            self.exchange()?;
        }
        self.file.write_all(text.as_bytes())?;
        self.written += text.len() as u64;
        Ok(())
    }

    /// `PATH` becomes `PATH.1`, that `PATH.2`, and the last goes.
    fn exchange(&mut self) -> std::io::Result<()> {
        self.file.flush()?;
        for number in (1..KEPT).rev() {
            let before = beside(&self.path, number);
            if before.exists() {
                std::fs::rename(before, beside(&self.path, number + 1))?;
            }
        }
        std::fs::rename(&self.path, beside(&self.path, 1))?;
        *self = Self::open(self.path.clone(), self.most)?;
        Ok(())
    }
}

fn beside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn write(queue: &Receiver<Line>, mut out: Out, reopen: &AtomicU64) {
    let mut reopened = 0;
    loop {
        let result = match queue.recv_timeout(FLUSH_AFTER) {
            Ok(line) => out.line(&line),
            Err(RecvTimeoutError::Timeout) => out.file.flush(),
            Err(RecvTimeoutError::Disconnected) => {
                drop(out.file.flush());
                return;
            }
        };
        let wanted = reopen.load(Ordering::Relaxed);
        let result = match std::mem::replace(&mut reopened, wanted) == wanted {
            true => result,
            false => out.file.flush().and_then(|()| {
                out = Out::open(out.path.clone(), out.most)?;
                Ok(())
            }),
        };
        if let Err(error) = result {
            tracing::warn!(path = %out.path.display(), %error, "query log not written");
        }
    }
}

impl Line {
    /// `[TIME] CLIENT - ID "TYPE IN NAME PROTO SIZE DO BUFSIZE" RCODE FLAGS SIZE DURATION`.
    fn text(&self) -> String {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let code = CODES[usize::from(self.flags & 0xF).min(CODES.len() - 1)];
        let set: Vec<&str> = [
            (flag::RESPONSE, "qr"),
            (flag::AUTHORITATIVE, "aa"),
            (flag::TRUNCATED, "tc"),
            (flag::RECURSION_DESIRED, "rd"),
            (flag::RECURSION_AVAILABLE, "ra"),
        ]
        .iter()
        .filter(|(flag, _)| self.flags & flag != 0)
        .map(|(_, shown)| *shown)
        .collect();
        format!(
            "[{}.{:03}] {} - {} \"{} IN {} {} {} {} {}\" {code} {} {} {:.9}s\n",
            since.as_secs(),
            since.subsec_millis(),
            self.client,
            self.id,
            Rtype::from_int(self.kind),
            name::text(&self.name),
            self.protocol,
            self.size,
            self.dnssec,
            self.payload,
            set.join(","),
            self.reply,
            self.time.as_secs_f64(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::kind;

    fn line(id: u16) -> Line {
        Line {
            client: "10.0.0.1:4711".parse().expect("an address"),
            protocol: "udp",
            id,
            kind: kind::AAAA,
            name: crate::name::encode("web.example.org").expect("a name").into(),
            size: 44,
            dnssec: false,
            payload: 1232,
            flags: flag::RESPONSE | flag::AUTHORITATIVE | 3,
            reply: 99,
            time: Duration::from_micros(12),
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        }
    }

    #[test]
    fn a_line_is_what_coredns_writes() {
        assert_eq!(
            line(7).text(),
            "[1700000000.123] 10.0.0.1:4711 - 7 \"AAAA IN web.example.org. udp 44 false 1232\" \
             NXDOMAIN qr,aa 99 0.000012000s\n"
        );
    }

    #[test]
    fn a_full_file_moves_aside_and_only_a_few_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("queries.log");
        let mut out = Out::open(path.clone(), 4096).expect("it opens");
        (0..400).for_each(|id| out.line(&line(id)).expect("it is written"));
        out.file.flush().expect("it is written");
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .expect("it is there")
            .map(|file| file.expect("a file").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names, ["queries.log", "queries.log.1", "queries.log.2", "queries.log.3"]);
        let last = std::fs::read_to_string(&path).expect("text");
        assert!(last.lines().last().is_some_and(|line| line.contains(" - 399 ")));
        assert!(
            names.iter().all(|name| dir.path().join(name).metadata().expect("x").len() <= 4096)
        );
    }
}
