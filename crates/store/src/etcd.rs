//! The store in an etcd, version 3: everything is written there and read from memory here.
//!
//! ```text
//! put, delete ─▶ one transaction ─▶ etcd ─▶ watch ─▶ memory ─▶ watchers
//!                     answer ◀─────────── once the memory has it
//! get, list   ─────────────────────────────────────▶ memory
//! ```
//!
//! # Guarantees
//! - Whether a write's expectation holds is decided by etcd, so several processes may write to one
//!   prefix.
//! - A write is answered when etcd has synced it and the memory shows it: through this store,
//!   whatever starts later sees it. A refused write is answered when the memory shows what refused
//!   it.
//! - What another process wrote is seen when the watch brings it, in order and without a gap,
//!   a moment later; a write that rests on something older is refused by etcd.
//! - While etcd cannot be reached, reads go on from memory and writes fail after a deadline.
//!
//! Our revisions are etcd's, plus an offset that a restore sets. The history that can be read
//! starts when the store is opened. etcd is compacted every five minutes, to where it was five
//! minutes before.
//!
//! It refuses to guess: after a deadline a write may or may not have happened, and the error says
//! so. etcd's quota alarm (`WriteError::Full`) is for its operator to clear.
//!
//! # Source
//! The transactions are those of kube-apiserver's etcd3 storage; the mirror is its watch cache.

mod fill;
mod mirror;
mod target;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, Identity,
    KvClient, PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::mirror::Mirror;
pub use self::target::{Target, TargetError, Tls};
use self::wire::{Place, answer, io_error, is_compacted, read_error, write_error};
use crate::contract::{
    Entry, Expect, Index, OpenError, Page, ReadError, Revision, Store, WriteError,
};
use crate::embedded::Options;
use crate::memory::{Memory, State, Window};
use crate::watch::Watch;

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an endpoint may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// kube-apiserver's default, for the same reason: etcd keeps every version until told otherwise.
const COMPACT_EVERY: Duration = Duration::from_secs(300);
/// A dead connection is noticed after these two; etcd refuses pings more often than every 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// An answer is a page of values or the two values of a transaction.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// A store in an etcd. Closed when it is dropped.
#[derive(Debug)]
pub struct Etcd {
    memory: Arc<Memory>,
    kv: Kv,
    place: Place,
    applied: watch::Receiver<Revision>,
    _tasks: JoinSet<()>,
}

/// etcd's client has no `Debug`.
struct Kv(KvClient);

impl std::fmt::Debug for Kv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KvClient")
    }
}

impl Etcd {
    /// Connects, and reads everything there is.
    ///
    /// Of `options`, those about history and watchers are heeded.
    ///
    /// # Errors
    /// `Unreachable` when no endpoint accepts a connection or etcd does not answer.
    pub async fn open(target: &Target, options: &Options) -> Result<Etcd, OpenError> {
        let unreachable = |source| unreachable(target, source);
        let client = connect(target).await?;
        let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let place = find_place(&mut kv, target).await?;
        let (entries, revision) = mirror::load(&mut kv, &place, PATIENCE)
            .await
            .map_err(|error| unreachable(io_error(error)))?;
        let window = Window { changes: options.history_changes, bytes: options.history_bytes };
        let memory = Arc::new(Memory::new(
            entries,
            revision,
            window,
            options.watch_backlog,
            options.progress_every,
        ));
        let (applied, seen) = watch::channel(revision);
        let mut tasks = JoinSet::new();
        let mirror = Mirror {
            memory: memory.clone(),
            kv: kv.clone(),
            watch: client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX),
            place: place.clone(),
            applied,
            patience: PATIENCE,
        };
        tasks.spawn(mirror.run());
        tasks.spawn(compact_now_and_then(kv.clone(), memory.clone(), place.clone()));
        Ok(Etcd { memory, kv: Kv(kv), place, applied: seen, _tasks: tasks })
    }

    /// Finds out whether `target` can be used, without reading what is there.
    ///
    /// # Errors
    /// As [`Etcd::open`].
    pub async fn reach(target: &Target) -> Result<(), OpenError> {
        let client = connect(target).await?;
        find_place(&mut client.kv_client(), target).await.map(drop)
    }

    /// Waits until the memory is as `shown` says.
    async fn until(&self, shown: impl Fn(&State) -> bool) -> Result<(), WriteError> {
        let mut applied = self.applied.clone();
        let wait = applied.wait_for(|_| shown(&self.memory.read()));
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(WriteError::Closed),
            Err(_) => Err(WriteError::Io(io::Error::new(
                io::ErrorKind::TimedOut,
                "etcd has answered, but its watch does not show the write: it may have happened",
            ))),
        }
    }

    async fn transact(&self, txn: Txn, bytes: usize) -> Result<TxnResponse, WriteError> {
        let mut kv = self.kv.0.clone();
        answer(PATIENCE, kv.txn(txn)).await.map_err(|error| write_error(error, bytes))
    }

    /// What `key` is in etcd, which the memory shows from then on.
    async fn refused(
        &self,
        key: &[u8],
        response: &TxnResponse,
    ) -> Result<Option<Entry>, WriteError> {
        let current = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut got) => got.take_kvs().pop(),
            _ => None,
        });
        let current = current.and_then(|kv| self.place.entry(kv));
        match &current {
            Some(entry) => self.until(|state| state.revision() >= entry.modified).await?,
            // Gone, or replaced meanwhile by something newer than that.
            None => {
                let at = self.place.of_header(response.header());
                self.until(|state| state.get(key).is_none_or(|entry| entry.modified > at)).await?;
            }
        }
        Ok(current)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.memory.close();
    }
}

#[async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<Revision, ReadError> {
        self.memory.revision()
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<Entry>, Revision), ReadError> {
        self.memory.get(key)
    }

    async fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        self.memory.list(prefix, after, limit, at)
    }

    fn index(&self, index: Index) {
        self.memory.index(index);
    }

    async fn list_by(
        &self,
        index: &str,
        term: &[u8],
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Option<Page>, ReadError> {
        self.memory.list_by(index, term, prefix, after, limit)
    }

    async fn put(&self, key: Bytes, value: Bytes, expect: Expect) -> Result<Entry, WriteError> {
        if key.is_empty() {
            let what = "a key has at least one byte";
            return Err(WriteError::Io(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        let theirs = self.place.key(&key);
        let options = PutOptions::new().with_prev_key();
        let put = TxnOp::put(theirs.clone(), value.to_vec(), Some(options));
        let look = TxnOp::get(theirs.clone(), Some(GetOptions::new()));
        let txn = Txn::new().when(self.compare(&theirs, expect)).and_then([put]).or_else([look]);
        let response = self.transact(txn, key.len() + value.len()).await?;
        if !response.succeeded() {
            return Err(WriteError::Conflict { current: self.refused(&key, &response).await? });
        }
        let modified = self.place.of_header(response.header());
        let previous = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Put(mut put) => put.take_prev_key(),
            _ => None,
        });
        let created = previous.map_or(modified, |kv| self.place.revision(kv.create_revision()));
        self.until(|state| state.revision() >= modified).await?;
        Ok(Entry { key, value, created, modified })
    }

    async fn delete(&self, key: &[u8], expect: Expect) -> Result<(Entry, Revision), WriteError> {
        let theirs = self.place.key(key);
        let options = DeleteOptions::new().with_prev_key();
        let delete = TxnOp::delete(theirs.clone(), Some(options));
        let look = TxnOp::get(theirs.clone(), Some(GetOptions::new()));
        let txn = Txn::new().when(self.compare(&theirs, expect)).and_then([delete]).or_else([look]);
        let response = self.transact(txn, key.len()).await?;
        let removed = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Delete(mut delete) => delete.take_prev_kvs().pop(),
            _ => None,
        });
        if let Some(entry) = removed.and_then(|kv| self.place.entry(kv)) {
            let revision = self.place.of_header(response.header());
            self.until(|state| state.revision() >= revision).await?;
            return Ok((entry, revision));
        }
        match self.refused(key, &response).await? {
            Some(current) => Err(WriteError::Conflict { current: Some(current) }),
            None => Err(WriteError::NotFound),
        }
    }

    async fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, ReadError> {
        self.memory.watch(prefix, after)
    }

    async fn compact(&self, floor: Revision) -> Result<(), ReadError> {
        self.memory.compact(floor)?;
        let Some(theirs) = self.place.theirs(floor).filter(|theirs| *theirs > 0) else {
            return Ok(());
        };
        compact(&mut self.kv.0.clone(), theirs).await
    }
}

impl Etcd {
    fn compare(&self, theirs: &[u8], expect: Expect) -> Vec<Compare> {
        match expect {
            Expect::Anything => Vec::new(),
            Expect::Absent => vec![Compare::version(theirs, CompareOp::Equal, 0)],
            Expect::Modified(at) => match self.place.theirs(at).filter(|at| *at > 0) {
                Some(at) => vec![Compare::mod_revision(theirs, CompareOp::Equal, at)],
                // Older than anything there can be: holds for no key.
                None => vec![Compare::version(theirs, CompareOp::Less, 0)],
            },
        }
    }
}

async fn compact(kv: &mut KvClient, theirs: i64) -> Result<(), ReadError> {
    match answer(PATIENCE, kv.compact(theirs, None)).await {
        Ok(_) => Ok(()),
        Err(error) if is_compacted(&error) => Ok(()),
        Err(error) => Err(read_error(error)),
    }
}

async fn compact_now_and_then(mut kv: KvClient, memory: Arc<Memory>, place: Place) {
    let mut floor = memory.read().revision();
    loop {
        tokio::time::sleep(COMPACT_EVERY).await;
        if let Some(theirs) = place.theirs(floor).filter(|theirs| *theirs > 0)
            && let Err(error) = compact(&mut kv, theirs).await
        {
            tracing::warn!(%error, "cannot compact etcd: will try again");
        }
        floor = memory.read().revision();
    }
}

fn unreachable(target: &Target, source: io::Error) -> OpenError {
    OpenError::Unreachable { endpoints: target.endpoints.join(", "), source }
}

/// Connects to an endpoint that accepts, so that what is wrong is known at once.
async fn connect(target: &Target) -> Result<Client, OpenError> {
    let unreachable = |source| unreachable(target, source);
    let mut failure = None;
    let mut endpoints = Vec::new();
    for endpoint in &target.endpoints {
        match tokio::time::timeout(CONNECT, TcpStream::connect(endpoint)).await {
            Ok(Ok(_)) => endpoints.push(endpoint.clone()),
            Ok(Err(error)) => failure = Some(error),
            Err(_) => failure = Some(io::ErrorKind::TimedOut.into()),
        }
    }
    if let (true, Some(error)) = (endpoints.is_empty(), failure) {
        return Err(unreachable(error));
    }
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true);
    let mut scheme = "http";
    if let Some(tls) = &target.tls {
        scheme = "https";
        options = options.with_tls(tls_options(tls).await.map_err(unreachable)?);
    }
    // All of them: one that is down now may be back when another goes.
    let urls: Vec<_> =
        target.endpoints.iter().map(|endpoint| format!("{scheme}://{endpoint}")).collect();
    Client::connect(urls, Some(options)).await.map_err(|error| unreachable(io_error(error)))
}

async fn tls_options(tls: &Tls) -> io::Result<TlsOptions> {
    let read = async |path: &std::path::Path| {
        tokio::fs::read(path).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
        })
    };
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca).await?));
    if let Some((cert, key)) = &tls.identity {
        options = options.identity(Identity::from_pem(read(cert).await?, read(key).await?));
    }
    Ok(options)
}

/// The first call: finds out whether etcd answers, and where our revisions start.
async fn find_place(kv: &mut KvClient, target: &Target) -> Result<Place, OpenError> {
    let mut place = Place::new(&target.prefix);
    let got = answer(PATIENCE, kv.get(place.offset_key.clone(), None)).await.map_err(|error| {
        let secured = match target.tls {
            Some(_) => "with TLS; do ca, cert and key fit?",
            None => "without TLS; does it want etcds://?",
        };
        let source = io_error(error);
        unreachable(target, io::Error::new(source.kind(), format!("{source} ({secured})")))
    })?;
    if let Some(found) = got.kvs().first() {
        let text = found.value_str().ok().and_then(|text| text.parse().ok());
        place.offset = text.ok_or_else(|| {
            unreachable(target, io::Error::other("the offset of its revisions is no number"))
        })?;
    }
    Ok(place)
}
