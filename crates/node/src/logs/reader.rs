//! Reads one attempt's log through its rotated files, and waits for more when asked to.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::fs::inotify;
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::line::Record;
use super::{Options, files, tail};
use crate::descriptor;

const READ: usize = 64 << 10;
/// A chunk is handed out when it is this large, or when there is nothing more at the moment.
const CHUNK: usize = 32 << 10;
/// A line in parts that never ends is given out in pieces of this size.
const LONGEST_LINE: usize = 1 << 20;
/// A container that ends writes nothing, so the question whether it runs is asked again.
const ASK: Duration = Duration::from_secs(1);

/// A place in a log. See [`super::stream`].
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    options: Options,
    open: Option<File>,
    /// Files that come after the open one; the last is `path`.
    later: VecDeque<PathBuf>,
    /// Read and not yet understood: at most one record and what was read with it.
    raw: BytesMut,
    /// Beginnings of lines whose last part is not here yet, by stream.
    begun: HashMap<String, Vec<u8>>,
    out: BytesMut,
    left: Option<u64>,
    changes: Option<AsyncFd<OwnedFd>>,
}

impl LogReader {
    /// Opens the log at `path` where `options` say to begin.
    ///
    /// # Errors
    /// `NotFound` when there is no such log, not even a rotated one.
    pub async fn open(path: &Path, options: Options) -> io::Result<Self> {
        let mut all = files::rotated(path);
        if path.exists() || options.follow {
            all.push(path.to_owned());
        }
        let changes = match options.follow {
            // Before the first read, so that nothing is missed between the two.
            true => Some(watch(path.parent().unwrap_or(Path::new("/")))?),
            false => None,
        };
        let mut offset = 0;
        if let Some(wanted) = options.tail_lines {
            let stream = options.stream;
            let found = tokio::task::spawn_blocking(move || begin_of_tail(all, wanted, stream));
            (all, offset) = found.await.map_err(io::Error::other)??;
        }
        let mut later = VecDeque::from(all);
        let first = later.pop_front().ok_or(io::ErrorKind::NotFound)?;
        let mut open = match File::open(&first).await {
            Ok(file) => Some(file),
            // Following a container that is about to write its first line.
            Err(error) if error.kind() == io::ErrorKind::NotFound && options.follow => None,
            Err(error) => return Err(error),
        };
        if let Some(file) = &mut open {
            file.seek(io::SeekFrom::Start(offset)).await?;
        }
        Ok(Self {
            path: path.to_owned(),
            left: options.limit_bytes,
            options,
            open,
            later,
            raw: BytesMut::new(),
            begun: HashMap::new(),
            out: BytesMut::new(),
            changes,
        })
    }

    /// The next chunk; `None` at the end. `running` says whether the container may still write.
    pub(super) async fn next(
        &mut self,
        running: &(impl Fn() -> bool + Send + Sync),
    ) -> io::Result<Option<Bytes>> {
        let mut last_look = false;
        loop {
            if self.left == Some(0) && self.out.is_empty() {
                return Ok(None);
            }
            if self.out.len() >= CHUNK || self.left == Some(0) {
                return Ok(Some(self.out.split().freeze()));
            }
            if self.read().await? || self.open_next().await? {
                continue;
            }
            if !self.out.is_empty() {
                return Ok(Some(self.out.split().freeze()));
            }
            if !self.options.follow || last_look {
                return Ok(self.rest());
            }
            // Ended: whatever was written before is there now, so one more look is enough.
            last_look = !running();
            if !last_look {
                self.wait().await?;
            }
        }
    }

    /// Whether something was read.
    async fn read(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.open else { return Ok(false) };
        self.raw.reserve(READ);
        if file.read_buf(&mut self.raw).await? == 0 {
            return Ok(false);
        }
        while let Some(end) = self.raw.iter().position(|byte| *byte == b'\n') {
            let line = self.raw.split_to(end + 1);
            self.take(&line[..end]);
        }
        Ok(true)
    }

    /// Whether another file comes after the open one, which is at its end.
    async fn open_next(&mut self) -> io::Result<bool> {
        if self.later.is_empty() && !self.was_replaced().await {
            return Ok(false);
        }
        let next = self.later.pop_front().unwrap_or_else(|| self.path.clone());
        match File::open(&next).await {
            Ok(file) => {
                self.open = Some(file);
                Ok(true)
            }
            // Rotated or removed between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(!self.later.is_empty()),
            Err(error) => Err(error),
        }
    }

    /// Whether the open file has been rotated away and another stands in its place.
    async fn was_replaced(&self) -> bool {
        if !self.options.follow {
            return false;
        }
        let Ok(now) = tokio::fs::metadata(&self.path).await else { return false };
        let Some(file) = &self.open else { return true };
        file.metadata().await.is_ok_and(|open| (open.dev(), open.ino()) != (now.dev(), now.ino()))
    }

    async fn wait(&mut self) -> io::Result<()> {
        let Some(changes) = &self.changes else { return Ok(()) };
        let Ok(ready) = tokio::time::timeout(ASK, changes.readable()).await else { return Ok(()) };
        let mut ready = ready?;
        let mut events = [0; 4096];
        // What happened does not matter: everything is looked at again.
        while rustix::io::read(changes.get_ref(), &mut events).is_ok_and(|length| length > 0) {}
        ready.clear_ready();
        Ok(())
    }

    fn take(&mut self, line: &[u8]) {
        let Some(record) = Record::parse(line) else { return };
        if self.options.stream.is_some_and(|wanted| wanted != record.stream) {
            return;
        }
        let early =
            self.options.since.is_some_and(|since| record.timestamp().is_some_and(|t| t < since));
        let begun = self.begun.entry(record.stream.to_owned()).or_default();
        if early {
            begun.clear();
            return;
        }
        if begun.is_empty() && self.options.timestamps {
            begun.extend_from_slice(record.time.as_bytes());
            begun.push(b' ');
        }
        begun.extend_from_slice(record.text);
        if !record.partial {
            begun.push(b'\n');
        } else if begun.len() < LONGEST_LINE {
            return;
        }
        let text = std::mem::take(begun);
        self.put(&text);
    }

    fn put(&mut self, text: &[u8]) {
        let room = self.left.map_or(text.len(), |left| {
            usize::try_from(left).map_or(text.len(), |left| left.min(text.len()))
        });
        self.out.extend_from_slice(&text[..room]);
        self.left = self.left.map(|left| left - room as u64);
    }

    /// What was begun and never ended: a container that was killed in the middle of a line.
    fn rest(&mut self) -> Option<Bytes> {
        for (_, text) in std::mem::take(&mut self.begun) {
            self.put(&text);
        }
        (!self.out.is_empty()).then(|| self.out.split().freeze())
    }
}

fn watch(dir: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
    let queue = inotify::init(flags)?;
    let events =
        inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&queue, dir, events)?;
    descriptor::readable(queue)
}

/// The files that hold the last `wanted` lines, and where in the first of them they begin.
fn begin_of_tail(
    mut all: Vec<PathBuf>,
    wanted: u64,
    stream: Option<&str>,
) -> io::Result<(Vec<PathBuf>, u64)> {
    let mut missing = wanted;
    for place in (0..all.len()).rev() {
        let mut file = match std::fs::File::open(&all[place]) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let start = tail::start(&mut file, missing, stream)?;
        if start.offset > 0 || place == 0 {
            return Ok((all.split_off(place), start.offset));
        }
        missing -= start.lines;
    }
    Ok((all, 0))
}
