//! A session from its first byte to its end.
//!
//! Four things go on at once, and the first that ends, ends the session: keys go to the container;
//! what it prints goes to the browser and into the recording; pieces of the recording go to the
//! database, which the printing waits for; and the limits are watched.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::Message;

use super::harmless::Filter;
use super::line::Line;
use super::open::Socket;
use super::recording::Recording;
use super::{End, Place, Record, Shells, Size, Wanted};
use crate::database::{DatabaseError, now};

/// Who takes nothing for this long is gone.
pub(super) const SEND: Duration = Duration::from_secs(20);
/// What was shown is in the database not later than this.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// So that whatever is between sees that the connection lives.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Pieces that wait for the database; then what is printed waits.
const WAITING: usize = 8;
/// The database may take so long to take what is left when a session has ended.
const LAST: Duration = Duration::from_secs(10);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;

/// Whether the person who opened the session still may.
pub(crate) trait Rights: Send + Sync + 'static {
    /// Asked every [`super::Limits::check`].
    fn hold(&self) -> impl Future<Output = bool> + Send;
}

/// What a session is about.
pub(super) struct Session<'a> {
    pub shells: &'a Shells,
    pub place: &'a Place,
    pub record: Record,
    pub wanted: &'a Wanted,
}

/// What keys and what is printed both touch.
struct Seen {
    recording: Recording,
    line: Line,
    /// Typed, and not on their way to the database yet.
    commands: VecDeque<Kept>,
    begun: Instant,
}

/// For the database.
enum Kept {
    Piece(String),
    Command(i64, String),
}

/// What the page says beside keys.
#[derive(Deserialize)]
struct Said {
    resize: Size,
}

impl Session<'_> {
    /// Carries until something ends it; what was shown is written by then.
    pub async fn carry(self, browser: &mut Socket, cluster: Socket, rights: impl Rights) -> End {
        let limits = &self.shells.limits;
        let title = format!("{}/{}", self.record.namespace, self.record.pod);
        let size = self.wanted.size;
        let recording = Recording::begin(size, &title, self.record.began, limits.recording);
        let begun = Instant::now();
        let (line, commands) = (Line::new(size.columns), VecDeque::new());
        let seen = Mutex::new(Seen { recording, line, commands, begun });
        let (keep, kept) = mpsc::channel(WAITING);
        let (typed, mut last_typed) = watch::channel(begun);
        let mut writer = std::pin::pin!(write(self.shells, &self.record.id, kept));
        let mut cut = self.place.cut.clone();
        let (mut shown, mut keys) = browser.split();
        let (mut container, mut printed) = cluster.split();
        let end = tokio::select! {
            end = input(&mut keys, &mut container, size, &seen, &typed) => end,
            end = output(&mut printed, &mut shown, &seen, &keep) => end,
            written = &mut writer => {
                if let Err(error) = written {
                    tracing::error!(%error, "a shell's recording cannot be written");
                }
                End::Unrecorded
            }
            end = bounds(limits, begun, &mut last_typed) => end,
            () = lose(self.shells, &self.record.id, &rights) => End::Rights,
            by = cut_off(&mut cut) => End::Cut { by },
            () = self.shells.tasks.stopping() => End::Stopped,
        };
        if end != End::Unrecorded {
            let closing = async {
                let rest = async {
                    hand_over(&seen, &keep).await;
                    drop(keep);
                };
                let ((), written) = tokio::join!(rest, writer);
                written?;
                self.shells.records.end(&self.record.id, &end.to_string()).await
            };
            match tokio::time::timeout(LAST, closing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a shell's end cannot be written"),
                Err(_) => tracing::error!("the database does not take a shell's end"),
            }
        }
        let goodbye = container.send(Message::Close(None));
        drop(tokio::time::timeout(SEND, goodbye).await); // the kubelet may have closed before
        end
    }
}

fn locked(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().expect("nothing panics under this lock")
}

/// Keys and sizes, to the container.
async fn input(
    keys: &mut SplitStream<&mut Socket>,
    container: &mut SplitSink<Socket, Message>,
    size: Size,
    seen: &Mutex<Seen>,
    typed: &watch::Sender<Instant>,
) -> End {
    if let Err(end) = send(container, resize(size)).await {
        return end;
    }
    while let Some(Ok(message)) = keys.next().await {
        let sent = match message {
            Message::Binary(bytes) => {
                typed.send_replace(Instant::now());
                locked(seen).line.typed(&bytes);
                Message::binary([&[STDIN], &bytes[..]].concat())
            }
            Message::Text(text) => {
                let Ok(said) = serde_json::from_str::<Said>(&text) else { continue };
                let size = said.resize.bounded();
                let mut seen = locked(seen);
                let at = seen.begun.elapsed();
                seen.recording.resized(at, size);
                seen.line.resize(size.columns);
                resize(size)
            }
            Message::Close(_) => break,
            _ => continue,
        };
        if let Err(end) = send(container, sent).await {
            return end;
        }
    }
    End::Left
}

fn resize(size: Size) -> Message {
    let body = json!({ "Width": size.columns, "Height": size.rows }).to_string();
    Message::binary([&[RESIZE], body.as_bytes()].concat())
}

async fn send(container: &mut SplitSink<Socket, Message>, message: Message) -> Result<(), End> {
    match tokio::time::timeout(SEND, container.send(message)).await {
        Ok(Ok(())) => Ok(()),
        // What it said before it went is still to be read.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(End::Lost),
    }
}

/// What the container prints, to the recording and then to the browser.
async fn output(
    printed: &mut SplitStream<Socket>,
    shown: &mut SplitSink<&mut Socket, Message>,
    seen: &Mutex<Seen>,
    keep: &mpsc::Sender<Kept>,
) -> End {
    let mut filter = Filter::default();
    let mut turn = tokio::time::interval(WRITE_EVERY);
    let mut ping = tokio::time::interval(PING_EVERY);
    for clock in [&mut turn, &mut ping] {
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        let message = tokio::select! {
            message = printed.next() => message,
            _ = turn.tick() => {
                hand_over(seen, keep).await;
                continue;
            }
            _ = ping.tick() => {
                if let Err(end) = show(shown, Message::Ping(Default::default())).await {
                    return end;
                }
                continue;
            }
        };
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => text.into(),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_))) | Some(Err(_)) | None => return End::Lost,
        };
        match bytes.split_first() {
            Some((&(STDOUT | STDERR), bytes)) => {
                let text = filter.take(bytes);
                if text.is_empty() {
                    continue;
                }
                let (due, full) = locked(seen).take(&text);
                if due {
                    hand_over(seen, keep).await;
                }
                if let Err(end) = show(shown, Message::binary(text.into_bytes())).await {
                    return end;
                }
                if full {
                    return End::Full;
                }
            }
            Some((&STATUS, status)) => return ended(status),
            _ => {}
        }
    }
}

impl Seen {
    /// Records what is shown; whether some of it is to be written now, and whether it is full.
    fn take(&mut self, text: &str) -> (bool, bool) {
        let at = self.begun.elapsed();
        self.recording.shown(at, text);
        for command in self.line.shown(text) {
            self.recording.marked(at, &command);
            self.commands.push_back(Kept::Command(now(), command));
        }
        let due = self.recording.is_due() || !self.commands.is_empty();
        (due, self.recording.is_full())
    }

    fn next(&mut self) -> Option<Kept> {
        self.commands.pop_front().or_else(|| self.recording.take().map(Kept::Piece))
    }
}

/// Gives the writer all that is there, once it has room: nothing is lost when this is dropped.
async fn hand_over(seen: &Mutex<Seen>, keep: &mpsc::Sender<Kept>) {
    loop {
        // A writer that has ended ends the session.
        let Ok(room) = keep.reserve().await else { return };
        let Some(next) = locked(seen).next() else { return };
        room.send(next);
    }
}

async fn cut_off(cut: &mut watch::Receiver<String>) -> String {
    let by = cut.wait_for(|by| !by.is_empty()).await.map(|by| by.clone());
    match by {
        Ok(by) => by,
        Err(_) => std::future::pending().await,
    }
}

async fn show(shown: &mut SplitSink<&mut Socket, Message>, message: Message) -> Result<(), End> {
    match tokio::time::timeout(SEND, shown.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Left),
        Err(_) => Err(End::Slow),
    }
}

/// What the last word of the container's runtime means.
fn ended(status: &[u8]) -> End {
    let Ok(status) = serde_json::from_slice::<Value>(status) else { return End::Lost };
    if status["status"] == "Success" {
        return End::Exit { code: 0 };
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes
        .into_iter()
        .flatten()
        .filter(|cause| cause["reason"] == "ExitCode")
        .find_map(|cause| cause["message"].as_str()?.parse().ok());
    match code {
        Some(code) => End::Exit { code },
        None => {
            let message = status["message"].as_str().unwrap_or("the command did not run");
            End::Refused { message: message.chars().take(1000).collect() }
        }
    }
}

/// Ends when nobody has typed for too long, or it has gone on for too long.
async fn bounds(
    limits: &super::Limits,
    begun: Instant,
    last_typed: &mut watch::Receiver<Instant>,
) -> End {
    let longest = begun + limits.longest;
    loop {
        let idle = *last_typed.borrow_and_update() + limits.idle;
        tokio::select! {
            () = tokio::time::sleep_until(longest) => return End::Long,
            () = tokio::time::sleep_until(idle) => return End::Idle,
            changed = last_typed.changed() => {
                if changed.is_err() {
                    return End::Left;
                }
            }
        }
    }
}

/// Ends when the person may no more.
async fn lose(shells: &Shells, id: &str, rights: &impl Rights) {
    let mut turn = tokio::time::interval(shells.limits.check);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turn.tick().await;
    loop {
        turn.tick().await;
        if !rights.hold().await {
            return;
        }
        if let Err(error) = shells.records.seen(id).await {
            tracing::warn!(%error, "cannot write that a shell goes on");
        }
    }
}

/// Writes what comes, in order, until no more can come.
async fn write(
    shells: &Shells,
    id: &str,
    mut kept: mpsc::Receiver<Kept>,
) -> Result<(), DatabaseError> {
    let (mut pieces, mut commands) = (0, 0);
    while let Some(one) = kept.recv().await {
        match one {
            Kept::Piece(text) => {
                shells.records.piece(id, pieces, &text).await?;
                pieces += 1;
            }
            Kept::Command(at, text) => {
                shells.records.command(id, commands, at, &text).await?;
                commands += 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_understood() {
        let check = |status: Value, expected: End| {
            assert_eq!(ended(status.to_string().as_bytes()), expected, "{status}");
        };
        check(json!({ "status": "Success" }), End::Exit { code: 0 });
        let failed = json!({ "status": "Failure", "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": "130" }] } });
        check(failed, End::Exit { code: 130 });
        let message = "no sh".to_owned();
        check(json!({ "status": "Failure", "message": "no sh" }), End::Refused { message });
        assert_eq!(ended(b"x"), End::Lost);
    }
}
