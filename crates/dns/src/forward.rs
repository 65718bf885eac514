//! Names that are not ours: asked of upstream servers, kept for a while.
//!
//! The slow path: it allocates, and reads answers with hickory-proto where it must. Bounded in
//! every direction: what waits, what is asked at once, what is kept, how long each may take.

mod cache;
mod upstream;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use berth_daemon::Tasks;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name as LongName, RData, Record, rdata::CNAME};
use tokio::sync::{Semaphore, mpsc};

use crate::answer;
use crate::wire::{self, HEADER_BYTES, MOST_NAME_BYTES, Name, code};
use cache::Cache;

/// Queries that may wait for a place.
const MOST_WAITING: usize = 4096;
/// Queries that are asked at once.
const MOST_ASKED: usize = 512;
/// TTL of the record that says what an ExternalName stands for.
const ALIAS_TTL: u32 = 5;

/// Whom to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams(pub Vec<SocketAddr>);

impl Upstreams {
    /// The `nameserver` lines of a resolv.conf(5).
    pub fn from_resolv_conf(text: &str) -> Self {
        let addresses = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_server = words.next() == Some("nameserver");
            let address = words.next().filter(|_| is_server)?.parse().ok()?;
            Some(SocketAddr::new(address, 53))
        });
        Self(addresses.collect())
    }
}

/// A query to be asked on a client's behalf, and what is done with the answer.
pub struct Job {
    asked: Asked,
    done: Done,
}

/// Takes the answer to its client.
type Done = Box<dyn FnOnce(&[u8]) + Send>;

struct Asked {
    message: Vec<u8>,
    alias: Option<Name>,
    limit: usize,
}

impl Job {
    /// `alias` is the name that the one in `message` stands for, if it does; `limit` is how many
    /// bytes the client takes.
    pub fn new(
        message: &[u8],
        alias: Option<Name>,
        limit: usize,
        done: impl FnOnce(&[u8]) + Send + 'static,
    ) -> Self {
        let asked = Asked { message: message.to_vec(), alias, limit };
        Self { asked, done: Box::new(done) }
    }
}

/// Too much is waiting already.
#[derive(Debug)]
pub struct Full;

/// Takes jobs from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder(mpsc::Sender<Job>);

impl Forwarder {
    /// Asks `upstreams` until `tasks` is told to stop.
    pub fn start(upstreams: Upstreams, tasks: &Tasks) -> Self {
        let (jobs, mut waiting) = mpsc::channel::<Job>(MOST_WAITING);
        let group = tasks.clone();
        tasks.spawn_until_stop("forward", async move {
            let room = Arc::new(Semaphore::new(MOST_ASKED));
            let asker = Arc::new(Asker { upstreams, cache: Mutex::new(Cache::default()) });
            while let Some(Job { asked: job, done }) = waiting.recv().await {
                let Ok(place) = room.clone().acquire_owned().await else { return };
                let asker = asker.clone();
                group.spawn_until_stop("forward-query", async move {
                    let answer = asker.answer(&job).await;
                    done(&answer);
                    drop(place);
                });
            }
        });
        Self(jobs)
    }

    /// Hands a job over without waiting.
    ///
    /// # Errors
    /// [`Full`] when too many wait.
    pub fn submit(&self, job: Job) -> Result<(), Full> {
        self.0.try_send(job).map_err(|_| Full)
    }
}

struct Asker {
    upstreams: Upstreams,
    cache: Mutex<Cache>,
}

impl Asker {
    async fn answer(&self, job: &Asked) -> Vec<u8> {
        let answer = match &job.alias {
            Some(target) => self.chase(&job.message, target).await,
            None => self.ask(&job.message).await,
        };
        let answer = answer.unwrap_or_else(|| failure(&job.message));
        if answer.len() <= job.limit { answer } else { truncated(&job.message) }
    }

    /// The answer from the cache or an upstream, with the client's id and question.
    async fn ask(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut place = [0; MOST_NAME_BYTES];
        let query = wire::read(message, &mut place).ok()?;
        let key = cache::Key::of(&query);
        let question = message.get(HEADER_BYTES..query.question_end)?;
        let kept = self.lock().get(&key, Instant::now());
        let mut answer = match kept {
            Some(kept) => kept,
            None => {
                let fresh = upstream::ask(&self.upstreams, message, question).await?;
                self.lock().put(key, &fresh, Instant::now());
                fresh
            }
        };
        answer.get_mut(..2)?.copy_from_slice(message.get(..2)?);
        answer.get_mut(HEADER_BYTES..query.question_end)?.copy_from_slice(question);
        Some(answer)
    }

    /// The records of `target`, behind one that says that the name asked for stands for it.
    async fn chase(&self, message: &[u8], target: &Name) -> Option<Vec<u8>> {
        let mut whole = Message::from_vec(message).ok()?;
        let name = LongName::from_labels(labels(target.wire())).ok()?;
        let mut inner = whole.clone();
        let question = inner.queries.first_mut()?;
        let asked = question.name().clone();
        question.set_name(name.clone());
        let found = self.ask(&inner.to_vec().ok()?).await;
        let found = found.and_then(|bytes| Message::from_vec(&bytes).ok());
        let alias = Record::from_rdata(asked, ALIAS_TTL, RData::CNAME(CNAME(name)));
        whole = whole.into_response();
        whole.metadata.recursion_available = true;
        whole.answers.push(alias);
        match found {
            Some(found) => {
                whole.metadata.response_code = found.metadata.response_code;
                whole.answers.extend(found.answers);
            }
            None => whole.metadata.response_code = ResponseCode::ServFail,
        }
        whole.to_vec().ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn labels(name: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    let mut rest = name;
    while let Some((label, after)) = wire::split_label(rest) {
        labels.push(label);
        rest = after;
    }
    labels
}

fn failure(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    answer::write_unreadable(message, code::SERVER_FAILURE, &mut out);
    out
}

/// Says to come again by TCP.
fn truncated(message: &[u8]) -> Vec<u8> {
    let mut place = [0; MOST_NAME_BYTES];
    let mut out = Vec::new();
    if let Ok(query) = wire::read(message, &mut place) {
        answer::write(&query, &answer::Parts::default(), 0, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_the_nameservers_of_resolv_conf() {
        let text =
            "search a b\nnameserver 10.0.0.1\n# nameserver 9.9.9.9\nnameserver ::1\noptions x";
        let expected = ["10.0.0.1:53", "[::1]:53"].map(|text| text.parse().unwrap());
        assert_eq!(Upstreams::from_resolv_conf(text), Upstreams(expected.to_vec()));
    }
}
