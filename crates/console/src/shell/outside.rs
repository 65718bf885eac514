//! A session that another program of ours carries (`berth exec`), recorded as the console's own are:
//! in the same tables, listed, replayed and searched with them, and cut off by the same people.
//!
//! The program shows nothing before [`Transcript::shown`] took it, and asks every
//! [`Transcript::TURN`] whether it may go on.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sqlx::AnyPool;

use super::harmless::Filter;
use super::line::Line;
use super::recording::Recording;
use super::{End, Limits, Record, Records, Size};
use crate::database::{DatabaseError, now};

/// What a session is about, in words.
#[derive(Clone, Debug)]
pub struct About {
    /// Who it is, to the cluster.
    pub account: String,
    /// Where from.
    pub address: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its container.
    pub container: String,
    /// The image, where the container was made for the session.
    pub image: Option<String>,
    /// The words of the command.
    pub command: Vec<String>,
    /// Columns and rows; none where there is no terminal: then keys and what is shown are not
    /// recorded, as they may be files.
    pub terminal: Option<(u16, u16)>,
}

/// A recording that is being made.
#[derive(Debug)]
pub struct Transcript {
    records: Records,
    id: String,
    recording: Recording,
    line: Line,
    filter: Filter,
    limits: Limits,
    begun: Instant,
    typed: Instant,
    seen: Instant,
    has_terminal: bool,
    pieces: i64,
    commands: i64,
}

impl Transcript {
    /// How often [`Transcript::turn`] is to be asked.
    pub const TURN: Duration = Duration::from_secs(2);

    /// Begins in the console's database.
    ///
    /// # Errors
    /// When it does not take the session: then there must be none.
    pub async fn begin(pool: AnyPool, about: &About) -> Result<Self, DatabaseError> {
        let (columns, rows) = about.terminal.unwrap_or((80, 24));
        let size = Size { columns, rows }.bounded();
        let mut bytes = [0; 16];
        rand::Rng::fill(&mut rand::rng(), &mut bytes);
        let record = Record {
            id: URL_SAFE_NO_PAD.encode(bytes),
            account: about.account.clone(),
            address: about.address.clone(),
            namespace: about.namespace.clone(),
            pod: about.pod.clone(),
            container: about.container.clone(),
            command: about.command.join(" "),
            image: about.image.clone().unwrap_or_default(),
            began: now(),
            ended: 0,
            ending: String::new(),
            bytes: 0,
        };
        let (records, limits) = (Records::new(pool), Limits::default());
        records.begin(&record).await?;
        let title = format!("{}/{}", record.namespace, record.pod);
        let mut recording = Recording::begin(size, &title, record.began, limits.recording);
        let header = recording.take().unwrap_or_default();
        records.piece(&record.id, 0, &header).await?;
        let begun = Instant::now();
        Ok(Self {
            records,
            id: record.id,
            recording,
            line: Line::new(size.columns),
            filter: Filter::default(),
            limits,
            begun,
            typed: begun,
            seen: begun,
            has_terminal: about.terminal.is_some(),
            pieces: 1,
            commands: 0,
        })
    }

    /// Keys that go to the container.
    pub fn typed(&mut self, bytes: &[u8]) {
        self.typed = Instant::now();
        if self.has_terminal {
            self.line.typed(bytes);
        }
    }

    /// The terminal has another size.
    pub fn resized(&mut self, columns: u16, rows: u16) {
        let size = Size { columns, rows }.bounded();
        self.recording.resized(self.begun.elapsed(), size);
        self.line.resize(size.columns);
    }

    /// What is about to be shown; whether the session may go on after it.
    ///
    /// # Errors
    /// When it cannot be written: then it must not be shown.
    pub async fn shown(&mut self, bytes: &[u8]) -> Result<bool, DatabaseError> {
        if !self.has_terminal {
            return Ok(true);
        }
        let text = self.filter.take(bytes);
        let at = self.begun.elapsed();
        if !text.is_empty() {
            self.recording.shown(at, &text);
        }
        for command in self.line.shown(&text) {
            self.recording.marked(at, &command);
            self.records.command(&self.id, self.commands, now(), &command).await?;
            self.commands += 1;
        }
        if self.recording.is_due() {
            self.write().await?;
        }
        Ok(!self.recording.is_full())
    }

    /// Writes what waits; why the session has to end, if it has to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn turn(&mut self) -> Result<Option<String>, DatabaseError> {
        self.write().await?;
        if self.seen.elapsed() >= self.limits.check {
            self.records.seen(&self.id).await?;
            self.seen = Instant::now();
        }
        let cut = self.records.to_be_cut().await?;
        let cut = cut.into_iter().find(|(id, _)| *id == self.id).map(|(_, by)| End::Cut { by });
        let idle = self.has_terminal && self.typed.elapsed() >= self.limits.idle;
        let long = self.begun.elapsed() >= self.limits.longest;
        let end = cut.or(idle.then_some(End::Idle)).or(long.then_some(End::Long));
        Ok(end.map(|end| end.to_string()))
    }

    /// It has ended: `exit 0`, `lost`, or what [`Transcript::turn`] said.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn end(mut self, why: &str) -> Result<(), DatabaseError> {
        self.write().await?;
        self.records.end(&self.id, why).await
    }

    async fn write(&mut self) -> Result<(), DatabaseError> {
        if let Some(piece) = self.recording.take() {
            self.records.piece(&self.id, self.pieces, &piece).await?;
            self.pieces += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::records;

    fn about(terminal: Option<(u16, u16)>) -> About {
        About {
            account: "ann".to_owned(),
            address: "local (ann)".to_owned(),
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            container: "web".to_owned(),
            image: None,
            command: vec!["sh".to_owned(), "-i".to_owned()],
            terminal,
        }
    }

    #[tokio::test]
    async fn what_another_program_carries_is_listed_replayed_and_cut() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("sqlite://{}/console.db", dir.path().display());
        let pool = crate::database::open(&address).await.unwrap();
        let records = Records::new(pool.clone());
        let mut transcript = Transcript::begin(pool, &about(Some((80, 24)))).await.unwrap();
        let live = records::Filter { live: true, ..records::Filter::default() };
        assert_eq!(records.list(&live).await.unwrap()[0].command, "sh -i");
        assert!(transcript.shown(b"$ ").await.unwrap());
        transcript.typed(b"whoami\r");
        assert!(transcript.shown(b"whoami\r\nroot\r\n$ ").await.unwrap());
        assert_eq!(transcript.turn().await.unwrap(), None);
        let id = transcript.id.clone();
        let text = records.recording(&id).await.unwrap();
        assert!(text.starts_with("{") && text.contains("root"), "{text}");
        let commands = records.commands(&records::Filter::default()).await.unwrap();
        assert_eq!(commands[0].text, "whoami");
        assert!(records.cut(&id, "olga").await.unwrap());
        assert_eq!(transcript.turn().await.unwrap().as_deref(), Some("cut by olga"));
        transcript.end("cut by olga").await.unwrap();
        let record = records.find(&id).await.unwrap().unwrap();
        assert_eq!((record.ending.as_str(), record.ended > 0), ("cut by olga", true));
    }

    #[tokio::test]
    async fn files_are_not_recorded_and_a_terminal_ends_at_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("sqlite://{}/console.db", dir.path().display());
        let pool = crate::database::open(&address).await.unwrap();
        let records = Records::new(pool.clone());
        let mut piped = Transcript::begin(pool.clone(), &about(None)).await.unwrap();
        assert!(piped.shown(&vec![0; 1 << 20]).await.unwrap());
        let id = piped.id.clone();
        piped.end("exit 0").await.unwrap();
        assert!(records.find(&id).await.unwrap().unwrap().bytes < 1000, "its header alone");
        let mut endless = Transcript::begin(pool, &about(Some((80, 24)))).await.unwrap();
        endless.limits.idle = Duration::ZERO;
        assert_eq!(endless.turn().await.unwrap().as_deref(), Some("idle"));
        endless.recording = Recording::begin(Size { columns: 80, rows: 24 }, "", 0, 4096);
        assert!(!endless.shown(&[b'x'; 5000]).await.unwrap());
    }
}
