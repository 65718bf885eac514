//! `berth up --detach`: the same process in a session of its own, and how it says that it is
//! ready. The words are systemd's (`sd_notify(3)`), so that a unit of `Type=notify` works too.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::failure::{Exit, Failure};
use crate::instance::Instance;
use crate::progress::Steps;

/// Names the socket that the starter listens on.
const NOTIFY: &str = "NOTIFY_SOCKET";
/// Between two looks whether the process still lives; words from it wake at once.
const TICK: Duration = Duration::from_millis(200);

/// Tells whoever started us; nobody, if nobody asked.
pub fn tell(word: &str) {
    let Some(path) = std::env::var_os(NOTIFY) else { return };
    let told = UnixDatagram::unbound().and_then(|socket| socket.send_to(word.as_bytes(), path));
    if let Err(error) = told {
        tracing::debug!(%error, word, "nobody listens to how far we are");
    }
}

/// Starts the process and waits until it is ready or has ended.
///
/// # Errors
/// What the process said when it could not start.
pub fn run(instance: &Instance) -> Result<()> {
    if let Some(pid) = instance.running() {
        let message = format!("berth is already up in {} (process {pid})", instance.dir.display());
        return Err(Failure::new(Exit::InUse, message, "stop it with `berth down`").into());
    }
    std::fs::create_dir_all(instance.dir.join("logs"))?;
    let said = instance.dir.join("logs/up.log");
    let notify = instance.dir.join("notify.sock");
    drop(std::fs::remove_file(&notify)); // of a starter that was killed
    let socket = UnixDatagram::bind(&notify).context("listening for the start's progress")?;
    socket.set_read_timeout(Some(TICK))?;
    let log = File::create(&said)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("up")
        .arg("--data-dir")
        .arg(&instance.dir)
        // Not the words of this process, which may have been told to restore first.
        .args(instance.options.words())
        .env(NOTIFY, &notify)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("starting berth in the background")?;
    let mut steps = Steps::new();
    let mut word = [0u8; 256];
    let ended = loop {
        let length = socket.recv(&mut word).unwrap_or(0); // a time-out is an empty word
        let word = String::from_utf8_lossy(word.get(..length).unwrap_or_default());
        if word == "READY=1" {
            break None;
        } else if let Some(step) = word.strip_prefix("STATUS=") {
            steps.begin(step);
        }
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
    };
    drop(std::fs::remove_file(&notify));
    let text = std::fs::read_to_string(&said).unwrap_or_default();
    match ended {
        None => {
            steps.done();
            let shown = text.lines().skip_while(|line| !line.starts_with("berth is up"));
            shown.for_each(|line| eprintln!("{line}"));
            Ok(())
        }
        Some(status) => {
            let last = text.lines().filter_map(|line| line.strip_prefix("berth: ")).next_back();
            let exit = match status.code() {
                Some(3) => Exit::Machine,
                Some(4) => Exit::InUse,
                _ => Exit::Failed,
            };
            let message = last.map_or_else(|| format!("berth up ended: {status}"), str::to_owned);
            let hint = format!("see {} and berth.log beside it", said.display());
            Err(anyhow!(Failure::new(exit, message, hint)))
        }
    }
}
