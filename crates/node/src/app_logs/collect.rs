//! One look at all log directories: what is new goes into the Apps' logs, what is old or too much
//! goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::limits::{self, Held};
use super::place::{self, About};
use super::positions::{At, Positions};
use super::store::{self, LONGEST, Store};
use super::walk::{Seen, Volume};

/// Read of one file in one look, so that one that is written fast does not keep the others waiting.
const SHARE: u64 = 8 << 20;
const CHUNK: usize = 256 << 10;
/// A line without an end is taken as it is when nothing was written for so long.
const IDLE: i64 = 5;
/// Old and surplus things are looked for in every so many looks, and after a look that read much.
const TIDY_EVERY: u32 = 20;
/// Packed copies of what was read before.
const PACKED: [&str; 6] = ["gz", "zip", "bz2", "xz", "zst", "lz4"];

/// Where the directories of pods come from.
pub(crate) trait Directories: Send {
    /// Before a look: takes up what changed.
    fn refresh(&mut self) {}

    /// Whether the pod is gone, so that nobody writes its files any more.
    fn is_over(&self, uid: &str) -> bool;

    /// A pod's directories, and where its containers see each. `dir` is what was noted of it.
    fn open(&mut self, dir: &Path, about: &About) -> Vec<(Arc<Volume>, String)>;

    /// Whether the next look should come soon: something begins or ends.
    fn is_hurried(&self) -> bool {
        false
    }
}

/// Those of this node, which it made itself: they are beside what was noted of them.
struct Own(crate::Config);

impl Directories for Own {
    fn is_over(&self, uid: &str) -> bool {
        !self.0.pod_dir(uid).exists()
    }

    fn open(&mut self, dir: &Path, about: &About) -> Vec<(Arc<Volume>, String)> {
        let open = |(name, inside): (&String, &String)| {
            let volume = Volume::open(&dir.join("v").join(name)).ok()?;
            Some((Arc::new(volume), inside.clone()))
        };
        about.volumes.iter().filter_map(open).collect()
    }
}

/// Collects; remembers between looks what it need not read again.
pub(crate) struct Collector {
    directories: Box<dyn Directories>,
    root: PathBuf,
    looks: u32,
    /// Positions of the pods, by their directory.
    known: BTreeMap<PathBuf, Positions>,
}

/// The directories of one pod, as they are now.
struct Pod {
    dir: PathBuf,
    about: About,
    is_over: bool,
    volumes: Vec<(Arc<Volume>, String, Vec<Seen>)>,
}

impl Collector {
    /// Of the directories that this node makes.
    pub fn own(config: &crate::Config) -> Self {
        Self::new(place::root(config), Box::new(Own(config.clone())))
    }

    /// Keeps below `root` what is in `directories`.
    pub fn new(root: PathBuf, directories: Box<dyn Directories>) -> Self {
        Self { directories, root, looks: 0, known: BTreeMap::new() }
    }

    /// Whether the next look should come soon.
    pub fn is_hurried(&self) -> bool {
        self.directories.is_hurried()
    }

    /// Looks once; whether there was more than is read in one look.
    pub fn look(&mut self) -> bool {
        self.looks = self.looks.wrapping_add(1);
        self.directories.refresh();
        let mut busy = false;
        for app in entries(&self.root) {
            match self.app(&app) {
                Ok(more) => busy |= more,
                Err(error) => {
                    tracing::warn!(app = %app.display(), %error, "cannot collect logs");
                }
            }
        }
        busy
    }

    fn app(&mut self, app: &Path) -> io::Result<bool> {
        let mut pods = Vec::new();
        for dir in entries(&app.join("dirs")) {
            // Half made, or being removed.
            let Some(about) = About::read(&dir) else { continue };
            pods.push(self.pod(dir, about));
        }
        let newest = pods.iter().filter(|pod| !pod.is_over).chain(&pods).next();
        let (room, keep) = newest.map_or((0, None), |pod| {
            let keep = Duration::from_secs(u64::from(pod.about.keep_hours) * 3600);
            (pod.about.quota / 2, Some(keep))
        });
        let path = app.join("log");
        let tidies = self.looks % TIDY_EVERY == 1;
        let Some(keep) = keep else {
            if tidies {
                self.forget(app, &path)?;
            }
            return Ok(false);
        };
        let mut taking = Taking { store: Store::open(&path, room)?, room, left: 0 };
        let mut looked = Ok((false, 0));
        for pod in &pods {
            match (self.take(pod, &mut taking), &mut looked) {
                (Ok((more, bytes)), Ok((busy, read))) => {
                    *busy |= more;
                    *read += bytes;
                }
                (Err(error), _) => {
                    // Room is made below all the same: it may be what is missing.
                    taking.store.take_back();
                    self.known.remove(&pod.dir);
                    looked = Err(error);
                    break;
                }
                (Ok(_), Err(_)) => {}
            }
        }
        if tidies || looked.as_ref().map_or(true, |(_, read)| *read >= room / 8) {
            store::shrink(&path, room, keep, SystemTime::now())?;
        }
        self.keep_in_bounds(&pods, room, keep, &mut taking)?;
        looked.map(|(busy, _)| busy)
    }

    fn pod(&mut self, dir: PathBuf, about: About) -> Pod {
        let uid = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_over = self.directories.is_over(&uid);
        let mut volumes = Vec::new();
        for (volume, inside) in self.directories.open(&dir, &about) {
            let Ok(walk) = volume.walk() else { continue };
            if !walk.whole && self.looks % TIDY_EVERY == 1 {
                let pod = &about.pod;
                tracing::warn!(pod, inside, "too many files or too deep: not all are collected");
            }
            volume.keep_open(&walk.files, Timestamp::now().as_second());
            volumes.push((volume, inside, walk.files));
        }
        Pod { dir, about, is_over, volumes }
    }

    /// Takes what is new in a pod's files; whether there is more, and how much was read.
    fn take(&mut self, pod: &Pod, taking: &mut Taking) -> io::Result<(bool, u64)> {
        let known = self.known.entry(pod.dir.clone()).or_insert_with(|| Positions::load(&pod.dir));
        let before = known.clone();
        let mut there = BTreeSet::new();
        let (mut busy, mut bytes) = (false, 0);
        let now = Timestamp::now().as_second();
        for (volume, inside, files) in &pod.volumes {
            for seen in files {
                there.insert(seen.key.clone());
                let mut at = known.0.get(&seen.key).copied().unwrap_or_default();
                if at.read > seen.size {
                    // Cut off, and written from its beginning.
                    at = At::default();
                }
                let idle = pod.is_over || now.saturating_sub(seen.written) > IDLE;
                let is_new = at.read < seen.size && (at.size != seen.size || idle);
                if is_packed(&seen.path) {
                    at = At { read: seen.size, size: seen.size };
                } else if is_new {
                    let label = format!("{} {}", pod.about.pod, label(inside, &seen.path));
                    let from = at.read;
                    match taking.file(volume, seen, idle, &label, &mut at) {
                        Ok(()) => {}
                        Err(Fault::Store(error)) => return Err(error),
                        // Its own trouble: gone, or another thing stands in its place.
                        Err(Fault::File(error)) => {
                            tracing::debug!(file = %seen.path.display(), %error, "not collected");
                        }
                    }
                    bytes += at.read.saturating_sub(from);
                    busy |= at.size < seen.size;
                }
                known.0.insert(seen.key.clone(), at);
                if taking.store.is_full() {
                    taking.store.commit(|| known.save(&pod.dir))?;
                }
            }
        }
        known.0.retain(|key, _| there.contains(key));
        if *known != before {
            taking.store.commit(|| known.save(&pod.dir))?;
        }
        Ok((busy, bytes))
    }

    fn keep_in_bounds(
        &mut self,
        pods: &[Pod],
        room: u64,
        keep: Duration,
        taking: &mut Taking,
    ) -> io::Result<()> {
        let now = Timestamp::now();
        let mut held = Vec::new();
        for pod in pods {
            let known = self.known.get(&pod.dir);
            for (volume, inside, files) in &pod.volumes {
                held.extend(files.iter().filter(|seen| !seen.nameless).map(|seen| Held {
                    volume,
                    seen,
                    is_over: pod.is_over,
                    read: known.and_then(|all| all.0.get(&seen.key)).map_or(0, |at| at.read),
                    pod: &pod.dir,
                    label: format!("{} {}", pod.about.pod, label(inside, &seen.path)),
                }));
            }
        }
        let looked_for_old = self.looks % TIDY_EVERY == 1;
        let done = limits::keep(held, room, keep, looked_for_old, now);
        for lost in &done.lost {
            let text = format!("{} bytes were not collected: the quota is full", lost.bytes);
            taking.note(&lost.label, &text)?;
            if let Some(known) = self.known.get_mut(&lost.pod) {
                known.0.entry(lost.key.clone()).or_default().read = lost.read;
                taking.store.commit(|| known.save(&lost.pod))?;
            }
        }
        for pod in pods.iter().filter(|pod| pod.is_over && looked_for_old) {
            if pod.volumes.iter().all(|(_, _, files)| files.is_empty()) {
                std::fs::remove_dir_all(&pod.dir)?;
                self.known.remove(&pod.dir);
            }
        }
        Ok(())
    }

    /// An App without directories: its log goes when it is old, and then the App's own directory.
    fn forget(&self, app: &Path, path: &Path) -> io::Result<()> {
        let hours = u64::try_from(berth_api::app::logs::KEEP_HOURS).unwrap_or(48);
        if !store::shrink(path, u64::MAX, Duration::from_secs(hours * 3600), SystemTime::now())? {
            // Only what is empty: a pod may have come meanwhile.
            let _ = std::fs::remove_dir(app.join("dirs"));
            let _ = std::fs::remove_dir(app);
        }
        Ok(())
    }
}

/// The log that is written, and how much may still be read of one file.
struct Taking {
    store: Store,
    room: u64,
    left: u64,
}

enum Fault {
    Store(io::Error),
    File(io::Error),
}

impl Taking {
    /// Takes whole lines of a file from `at` on. When nothing is written any more (`idle`), what
    /// has no line end too.
    fn file(
        &mut self,
        volume: &Volume,
        seen: &Seen,
        idle: bool,
        label: &str,
        at: &mut At,
    ) -> Result<(), Fault> {
        self.left = SHARE.min(self.store.piece());
        let mut chunk =
            vec![0; CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK)).max(LONGEST)];
        let file = volume.file(seen, false).map_err(Fault::File)?;
        at.size = seen.size;
        // More than a quarter of the room behind: it will never be caught up with.
        let most = (self.room / 4).max(SHARE);
        if seen.size.saturating_sub(at.read) > most {
            let skipped = seen.size - at.read - most / 2;
            at.read += skipped;
            let text = format!("{skipped} bytes were not collected: written faster than read");
            self.note(label, &text).map_err(Fault::Store)?;
        }
        let now = Timestamp::now().to_string();
        while self.left > 0 {
            let length = file.read_at(&mut chunk, at.read).map_err(Fault::File)?;
            let got = &chunk[..length];
            let Some(first) = got.iter().position(|byte| *byte != 0) else {
                if got.is_empty() {
                    return Ok(());
                }
                // A hole, left by a writer that goes on behind what was cut off.
                at.read += length as u64;
                self.left = self.left.saturating_sub(length as u64);
                continue;
            };
            at.read += first as u64;
            let got = &got[first..];
            let end = match got.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if got.len() >= LONGEST => LONGEST,
                None if idle && at.read + got.len() as u64 >= seen.size => got.len(),
                None if first > 0 => continue,
                None => return Ok(()),
            };
            for line in got[..end].split_inclusive(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                for piece in pieces(line) {
                    self.store.add(&now, label, piece).map_err(Fault::Store)?;
                }
            }
            at.read += end as u64;
            self.left = self.left.saturating_sub(end as u64);
        }
        // There is more: it is new at the next look too.
        at.size = at.size.min(at.read);
        Ok(())
    }

    /// A line of ours among theirs.
    fn note(&mut self, label: &str, text: &str) -> io::Result<()> {
        let line = format!("[berth: {text}]");
        self.store.add(&Timestamp::now().to_string(), label, line.as_bytes())
    }
}

/// A line in pieces of at most [`LONGEST`] bytes; an empty one is a piece too.
fn pieces(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = line.is_empty().then_some(line);
    empty.into_iter().chain(line.chunks(LONGEST))
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|end| PACKED.iter().any(|packed| end == *packed))
}

/// The path in the container as one word.
fn label(inside: &str, below: &Path) -> String {
    let path = format!("{}/{}", inside.trim_end_matches('/'), below.to_string_lossy());
    path.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

/// The directories in `dir`, in order; none when it is not there.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}
