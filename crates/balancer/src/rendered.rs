//! A configuration of another program: written, checked by that program, and only then loaded.
//!
//! ```text
//! text ──▶ FILE.new ──checked──▶ FILE ──▶ SIGHUP to the pid in its file
//!                └──refused──▶ named in the log; what runs goes on with what it has
//! ```
//!
//! A text that is in force already is not written again and nobody is told: endpoints that change
//! back and forth between two looks cost nothing.

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
    /// Its name in the directory of the configuration.
    pub name: String,
    /// What is in it. May be a key: nobody else may read it.
    pub content: Vec<u8>,
}

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
    /// It is written, and nobody runs who could be told.
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
    let dir = to.file.parent().unwrap_or(Path::new("."));
    let mut same = true;
    for Beside { name, content } in &rendered.beside {
        let path = dir.join(name);
        if std::fs::read(&path).ok().as_ref() != Some(content) {
            same = false;
            write(&path, content).map_err(failed(&path))?;
        }
    }
    if same && std::fs::read(&to.file).is_ok_and(|text| text == rendered.text.as_bytes()) {
        return Ok(Loaded::Same);
    }
    let draft = with_suffix(&to.file, ".new");
    write(&draft, rendered.text.as_bytes()).map_err(failed(&draft))?;
    // One that is refused stays, to be looked at.
    check(&draft, &to.check).await?;
    std::fs::rename(&draft, &to.file).map_err(failed(&to.file))?;
    let Some(pid) = to.pid.as_deref().and_then(|file| running(file, to.program)) else {
        return Ok(Loaded::Written);
    };
    kill(pid, Signal::SIGHUP).map_err(|source| LoadError::Tell { pid: pid.as_raw(), source })?;
    Ok(Loaded::Told)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whole or not at all, and for us alone.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let draft = with_suffix(path, ".part");
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
        let key = Beside { name: "a.key".into(), content: b"secret".to_vec() };
        Rendered { text: text.into(), beside: vec![key], refused: Vec::new() }
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
        assert_eq!(load(&rendered("good 1"), &to).await.unwrap(), Loaded::Same);
        let refused = load(&rendered("bad"), &to).await.unwrap_err();
        assert!(matches!(refused, LoadError::Refused { .. }), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "good 1");
        let key = dir.path().join("a.key");
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
        assert_eq!(load(&rendered("good 3"), &to).await.unwrap(), Loaded::Told);
        assert!(!sleep.wait().await.unwrap().success());
        std::fs::remove_file(&key).unwrap();
        assert_eq!(load(&rendered("good 3"), &to).await.unwrap(), Loaded::Written);
    }
}
