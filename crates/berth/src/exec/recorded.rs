//! The console's record of a `berth exec`.
//!
//! It is written where the console has its sessions: by whoever may read the data directory, or with
//! the address of the database. Where there is no console nothing is recorded.

use anyhow::{Context, Error, Result};
use berth_console::{SessionAbout, Transcript, open_database};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{PostParams, TerminalSize};
use kube::{Api, Client};
use tokio::sync::Mutex;

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::instance::Instance;

/// Records, or does nothing where there is no console.
pub struct Recorder(Option<Mutex<Option<Transcript>>>);

impl Recorder {
    /// Begins in the database at `address`, or in that of the instance's console.
    ///
    /// # Errors
    /// When there is a console and its database does not take the session.
    pub async fn begin(
        global: &Global,
        address: Option<&str>,
        about: &SessionAbout,
    ) -> Result<Self> {
        let own = match (address, &global.kubeconfig) {
            (None, None) => {
                let file = Instance::of(global)?.dir.join("console").join("console.db");
                file.exists().then(|| format!("sqlite://{}", file.display()))
            }
            _ => None,
        };
        let Some(address) = address.or(own.as_deref()) else {
            // Not on standard output, which is the command's.
            eprintln!(
                "warning: this session is not recorded: no console's database is known here \
                 (--console-database, BERTH_CONSOLE_DATABASE)"
            );
            return Ok(Self(None));
        };
        let opened = async { Transcript::begin(open_database(address).await?, about).await };
        let transcript =
            opened.await.context("the session cannot be recorded, so it is not begun")?;
        Ok(Self(Some(Mutex::new(Some(transcript)))))
    }

    /// Keys that go to the container.
    pub async fn typed(&self, keys: &[u8]) {
        if let Some(recorded) = &self.0
            && let Some(transcript) = recorded.lock().await.as_mut()
        {
            transcript.typed(keys);
        }
    }

    /// The terminal has this size.
    pub async fn resized(&self, size: &TerminalSize) {
        if let Some(recorded) = &self.0
            && let Some(transcript) = recorded.lock().await.as_mut()
        {
            transcript.resized(size.width, size.height);
        }
    }

    /// What is about to be shown.
    ///
    /// # Errors
    /// When it cannot be recorded, or the recording is full: then it must not be shown.
    pub async fn shown(&self, printed: &[u8]) -> Result<()> {
        if let Some(recorded) = &self.0
            && let Some(transcript) = recorded.lock().await.as_mut()
            && !transcript.shown(printed).await.context("the session cannot be recorded")?
        {
            return Err(over("full"));
        }
        Ok(())
    }

    /// Resolves when the session may not go on.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn watch(&self) -> Result<Error> {
        let Some(recorded) = &self.0 else { return std::future::pending().await };
        let mut turns = tokio::time::interval(Transcript::TURN);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            if let Some(transcript) = recorded.lock().await.as_mut() {
                let why = transcript.turn().await.context("the session cannot be recorded")?;
                if let Some(why) = why {
                    return Ok(over(&why));
                }
            }
        }
    }

    /// Writes how it ended.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn end(&self, how: &Result<i32>) -> Result<()> {
        let Some(recorded) = &self.0 else { return Ok(()) };
        let Some(transcript) = recorded.lock().await.take() else { return Ok(()) };
        let why = match how {
            Ok(code) => format!("exit {code}"),
            Err(error) => match error.downcast_ref::<Over>() {
                Some(over) => over.0.clone(),
                None => "lost".to_owned(),
            },
        };
        transcript.end(&why).await.context("the session's end cannot be recorded")
    }
}

/// A session that was ended by its record.
#[derive(Debug)]
struct Over(String);

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_str() {
            "idle" => f.write_str("the session was ended: nobody typed for too long"),
            "long" => f.write_str("the session was ended: it went on for too long"),
            "full" => f.write_str("the session was ended: its recording is full"),
            cut => write!(f, "the session was {cut}"),
        }
    }
}

impl std::error::Error for Over {}

fn over(why: &str) -> Error {
    let over = Over(why.to_owned());
    let message = over.to_string();
    Error::new(over).context(Failure::new(
        Exit::Failed,
        message,
        "sessions are recorded and watched",
    ))
}

/// As whom the cluster knows who asks; `unknown` where it does not say.
pub async fn who(client: &Client) -> String {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let asked = api.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let user = asked.ok().and_then(|answer| answer.status?.user_info?.username);
    user.unwrap_or_else(|| "unknown".to_owned())
}

/// Who is logged in on this machine, as far as it tells.
pub fn from_where() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let user = user.map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name);
    match std::env::var("SUDO_USER") {
        Ok(before) if before != user => format!("berth exec ({before} as {user})"),
        _ => format!("berth exec ({user})"),
    }
}
