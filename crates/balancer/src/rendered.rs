//! A configuration of another program: written, checked by that program, and only then loaded.
//!
//! ```text
//! text ──▶ FILE.new ──checked──▶ FILE ──▶ SIGHUP to the pid in its file
//!                └──refused──▶ named in the log; what runs goes on with what it has
//! ```
//!
//! A text that is in force already is not written again and nobody is told: endpoints that change
//! back and forth between two looks cost nothing.
//!
//! Whoever was not told of a text in force is told at the next try, also by another process of
//! ours: `FILE.untold` lies there until then.
//!
//! The files that a configuration needs beside it are named by what is in them, so a new one never
//! takes the place of one that the configuration in force names. They go once neither that nor the
//! one before names them: who was told may still be reading.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

/// A check of some megabytes takes a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file beside the configuration that it needs: a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    end: String,
    content: Vec<u8>,
}

impl Beside {
    /// `content`, which nobody else may read: it may be a key. `about` says what it is, `kind` is
    /// what its name ends in.
    pub fn new(about: &str, kind: &str, content: Vec<u8>) -> Self {
        // Of one name there are as many as a Secret was renewed, so 64 bits tell them apart.
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self { end: format!(".{about}.{:016x}.{kind}", hasher.finish()), content }
    }

    /// Where it lies when the configuration is `file`.
    pub fn path(&self, file: &Path) -> PathBuf {
        with_suffix(file, &self.end)
    }
}

/// Whether a file whose name goes on like this after a configuration's is one beside it.
fn is_beside(end: &str) -> bool {
    let end = end.strip_suffix(PART).unwrap_or(end);
    let mut words = end.rsplit('.');
    let (Some(_kind), Some(hash), Some(_about)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    end.starts_with('.') && hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a file is called until it is whole.
const PART: &str = ".part";

/// What a configuration was made into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The configuration.
    pub text: String,
    /// What it needs beside it.
    pub beside: Vec<Beside>,
    /// What could not be said in it, and why.
    pub refused: Vec<String>,
}

/// Where a configuration goes, and who is told.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The file; what it needs lies in the same directory.
    pub file: PathBuf,
    /// The program that checks it, and its words; `{}` stands for the file to check.
    pub check: Vec<String>,
    /// The file with the process id of the one that runs.
    pub pid: Option<PathBuf>,
    /// What its processes are called: a stale pid file must not hit somebody else.
    pub program: &'static str,
}

/// What came of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It was in force.
    Same,
    /// It is written, and nobody runs who could be told: to be tried again.
    Written,
    /// It is written, and who runs was told.
    Told,
}

/// Why a configuration was not loaded. What was in force is so still.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be written.
    #[error("write {path}")]
    Write {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program that checks cannot be run, or does not end.
    #[error("check with {program}")]
    Check {
        /// Which.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It says no.
    #[error("{program} refuses the configuration: {said}")]
    Refused {
        /// Which.
        program: String,
        /// Its last lines.
        said: String,
    },
    /// The process cannot be told.
    #[error("tell process {pid} to read the configuration")]
    Tell {
        /// Which.
        pid: i32,
        /// What the system said.
        source: nix::Error,
    },
}

/// Loads `rendered`, if it is another one and is accepted.
///
/// # Errors
/// When it cannot be written, is refused, or the running process cannot be told.
pub async fn load(rendered: &Rendered, to: &Destination) -> Result<Loaded, LoadError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| LoadError::Write { path, source }
    };
    let in_force = std::fs::read(&to.file).unwrap_or_default();
    let mut same = true;
    for beside in &rendered.beside {
        let path = beside.path(&to.file);
        if std::fs::read(&path).ok().as_ref() != Some(&beside.content) {
            same = false;
            write(&path, &beside.content).map_err(failed(&path))?;
        }
    }
    let untold = with_suffix(&to.file, ".untold");
    if same && in_force == rendered.text.as_bytes() {
        let told = if untold.exists() { tell(to, &untold)? } else { Loaded::Same };
        sweep(&to.file, &[&in_force]);
        return Ok(told);
    }
    let draft = with_suffix(&to.file, ".new");
    write(&draft, rendered.text.as_bytes()).map_err(failed(&draft))?;
    // One that is refused stays, to be looked at.
    check(&draft, &to.check).await?;
    if to.pid.is_some() {
        write(&untold, b"").map_err(failed(&untold))?;
    }
    std::fs::rename(&draft, &to.file).map_err(failed(&to.file))?;
    let told = tell(to, &untold)?;
    sweep(&to.file, &[&in_force, rendered.text.as_bytes()]);
    Ok(told)
}

/// Tells who runs, after which nobody is `untold`.
fn tell(to: &Destination, untold: &Path) -> Result<Loaded, LoadError> {
    let Some(pid) = to.pid.as_deref().and_then(|file| running(file, to.program)) else {
        // One that is just starting may have read what was in force before.
        return Ok(Loaded::Written);
    };
    kill(pid, Signal::SIGHUP).map_err(|source| LoadError::Tell { pid: pid.as_raw(), source })?;
    let path = || untold.display().to_string();
    std::fs::remove_file(untold).map_err(|source| LoadError::Write { path: path(), source })?;
    Ok(Loaded::Told)
}

/// Removes what lies beside `file` and none of `texts` names.
fn sweep(file: &Path, texts: &[&[u8]]) {
    let (Some(dir), Some(own)) = (file.parent(), file.file_name().and_then(OsStr::to_str)) else {
        return;
    };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_named = |text: &&[u8]| memchr::memmem::find(text, name.as_bytes()).is_some();
        if name.strip_prefix(own).is_some_and(is_beside)
            && !texts.iter().any(is_named)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(name, %error, "a file that is not needed any more stays");
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whole or not at all, and for us alone.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let draft = with_suffix(path, PART);
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

async fn check(draft: &Path, words: &[String]) -> Result<(), LoadError> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let failed = |source| LoadError::Check { program: program.clone(), source };
    let file = draft.display().to_string();
    let run = Command::new(program)
        .args(arguments.iter().map(|word| word.replace("{}", &file)))
        // A service's PATH may lack the administrator's directories, where Debian puts these.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let done = tokio::time::timeout(PATIENCE, run).await.map_err(late).map_err(failed)?;
    let done = done.map_err(failed)?;
    if done.status.success() {
        return Ok(());
    }
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().rev().take(4).map(str::trim).collect();
    let said = lines.into_iter().rev().collect::<Vec<_>>().join(" / ");
    Err(LoadError::Refused { program: program.clone(), said })
}

/// The process whose id is in `file`, if it is `program`.
fn running(file: &Path, program: &str) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (pid > 1 && name.trim() == program).then(|| Pid::from_raw(pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn rendered(text: &str) -> Rendered {
        let key = Beside::new("a", "key", b"secret".to_vec());
        let text = format!("{text} {}", key.path(Path::new("conf")).display());
        Rendered { text, beside: vec![key], refused: Vec::new() }
    }

    #[tokio::test]
    async fn what_is_refused_is_never_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf");
        let check = ["grep", "-q", "good", "{}"].map(str::to_owned).to_vec();
        let pid = dir.path().join("pid");
        let to =
            Destination { file: file.clone(), check, pid: Some(pid.clone()), program: "sleep" };
        assert_eq!(load(&rendered("good 1"), &to).await.unwrap(), Loaded::Written);
        assert_eq!(load(&rendered("good 1"), &to).await.unwrap(), Loaded::Written, "still untold");
        let refused = load(&rendered("bad"), &to).await.unwrap_err();
        assert!(matches!(refused, LoadError::Refused { .. }), "{refused}");
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("good 1 "));
        let key = rendered("").beside[0].path(&file);
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        // Another process under that id is let alone; ours ends by the signal.
        std::fs::write(&pid, std::process::id().to_string()).unwrap();
        assert_eq!(load(&rendered("good 2"), &to).await.unwrap(), Loaded::Written);
        // Whoever started the tests may have them ignore the signal, and children inherit that.
        let words = ["--default-signal=HUP", "sleep", "60"];
        let mut sleep = Command::new("env").args(words).kill_on_drop(true).spawn().unwrap();
        std::fs::write(&pid, format!("{}\n", sleep.id().unwrap())).unwrap();
        while running(&pid, "sleep").is_none() {
            tokio::task::yield_now().await;
        }
        // What was written before it ran: once, and then no more.
        assert_eq!(load(&rendered("good 2"), &to).await.unwrap(), Loaded::Told);
        assert!(!sleep.wait().await.unwrap().success());
        assert_eq!(load(&rendered("good 2"), &to).await.unwrap(), Loaded::Same);
        std::fs::remove_file(&key).unwrap();
        assert_eq!(load(&rendered("good 2"), &to).await.unwrap(), Loaded::Written);
    }
    #[tokio::test]
    async fn files_beside_stay_as_long_as_what_is_in_force_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf");
        let check = ["grep", "-q", "good", "{}"].map(str::to_owned).to_vec();
        let to = Destination { file: file.clone(), check, pid: None, program: "sleep" };
        let with = |text: &str, content: &str| {
            let beside = Beside::new("n.cert", "pem", content.into());
            let path = beside.path(&file);
            let text = format!("{text} {}", path.display());
            (Rendered { text, beside: vec![beside], refused: Vec::new() }, path)
        };
        // Not ours, though they look much like it.
        let others = ["conf.mine.pem", "conf2.n.cert.0123456789abcdef.pem", "ca.pem"];
        for name in others {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let (first, at_first) = with("good", "one");
        load(&first, &to).await.unwrap();
        let (bad, at_bad) = with("bad", "two");
        load(&bad, &to).await.unwrap_err();
        assert_eq!(std::fs::read(&at_first).unwrap(), b"one", "what is in force is whole");
        let (next, at_next) = with("good", "three");
        load(&next, &to).await.unwrap();
        assert_eq!(std::fs::read(&at_next).unwrap(), b"three");
        assert!(!at_bad.exists() && at_first.exists());
        assert_eq!(load(&next, &to).await.unwrap(), Loaded::Same);
        assert!(!at_first.exists() && at_next.exists());
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
    }
}
