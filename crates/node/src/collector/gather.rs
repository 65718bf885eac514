//! An App's log from all nodes: each has what it collected, and none knows of the others'.

use std::path::PathBuf;
use std::time::Duration;

use berth_api::app::logs::NONE_HERE;
use berth_api::app::logs::collector::TOKEN_HEADER;
use bytes::Bytes;
use futures::Stream;
use futures::future::join_all;
use http::StatusCode;
use jiff::Timestamp;

use super::lines::{self, Lines};
use super::merge::{Merge, Next};
use super::peers::{Peer, Peers};
use crate::app_logs;
use crate::logs::{LogReader, Options};
use crate::server::{Asked, Refusal};

/// To the head of another node's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// While following: how often new nodes, and those whose answers ended, are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// Nodes that are asked by one request.
const NODES: usize = 1_000;

/// Reads what all nodes collected.
#[derive(Clone)]
pub(super) struct Gather {
    pub peers: Peers,
    /// Where this one keeps what it collected.
    pub dir: PathBuf,
}

/// What somebody wants.
pub(super) struct Wanted {
    pub namespace: String,
    pub app: String,
    pub asked: Asked,
    pub options: Options,
    /// Only this node's.
    pub node: Option<String>,
    pub token: String,
}

impl Gather {
    /// All lines, by time.
    ///
    /// # Errors
    /// 404 when no node has any, 503 when the collectors are not known.
    pub async fn open(
        self,
        wanted: Wanted,
    ) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static, Refusal> {
        let mut merge = Merge::new(wanted.options.clone());
        let mut missing = Vec::new();
        let found = self.join(&wanted, &mut merge, &mut missing, None).await?;
        if found == 0 && missing.is_empty() {
            let Wanted { namespace, app, .. } = &wanted;
            let text = format!("{NONE_HERE} {namespace}/{app} was collected on any node");
            return Err(Refusal(StatusCode::NOT_FOUND, text));
        }
        let state = (self, wanted, merge, missing, Timestamp::now());
        Ok(futures::stream::unfold(Some(state), |state| async move {
            let (gather, wanted, mut merge, mut missing, begun) = state?;
            loop {
                match merge.next(LOOK).await {
                    Next::Chunk(chunk) => {
                        let state = (gather, wanted, merge, missing, begun);
                        return Some((Ok(chunk), Some(state)));
                    }
                    Next::End => return None,
                    Next::Nothing => {
                        let since = Some(begun);
                        // Who is asked again next time is told of now.
                        let joined = gather.join(&wanted, &mut merge, &mut missing, since).await;
                        if let Err(Refusal(_, error)) = joined {
                            tracing::debug!(error, "cannot look for other collectors");
                        }
                    }
                }
            }
        }))
    }

    /// Takes in what is not read yet; of how many nodes. Those in trouble are told of once.
    async fn join(
        &self,
        wanted: &Wanted,
        merge: &mut Merge,
        missing: &mut Vec<String>,
        since: Option<Timestamp>,
    ) -> Result<usize, Refusal> {
        let own = self.peers.own();
        let mut peers = match wanted.node.as_deref() == Some(own) {
            true => vec![Peer { node: own.to_owned(), address: None }],
            false => self.peers.list().await?,
        };
        let is_wanted = |node: &String| wanted.node.as_ref().is_none_or(|only| only == node);
        peers.retain(|peer| is_wanted(&peer.node) && !merge.has(&peer.node));
        peers.truncate(NODES);
        let asked = peers.iter().map(|peer| {
            let since = since.map(|begun| match merge.last(&peer.node) {
                // Behind the last that was read.
                Some(last) => last.checked_add(jiff::SignedDuration::from_nanos(1)).unwrap_or(last),
                None => begun,
            });
            self.lines(peer, wanted, since)
        });
        let answers = join_all(asked).await;
        let mut found = 0;
        for (peer, answer) in peers.into_iter().zip(answers) {
            match answer {
                Ok(Some(lines)) => {
                    missing.retain(|node| *node != peer.node);
                    merge.add(peer.node, lines);
                    found += 1;
                }
                Ok(None) => missing.retain(|node| *node != peer.node),
                Err(why) if !missing.contains(&peer.node) => {
                    merge.note(&format!("node {} does not answer: {why}", peer.node));
                    missing.push(peer.node);
                }
                Err(_) => {}
            }
        }
        Ok(found)
    }

    /// What a node has; `None` when that is nothing.
    async fn lines(
        &self,
        peer: &Peer,
        wanted: &Wanted,
        since: Option<Timestamp>,
    ) -> Result<Option<Lines>, String> {
        if peer.node == self.peers.own() {
            return self.own(wanted, since).await.map_err(|error| error.to_string());
        }
        let Some(address) = peer.address else {
            return Err("its collector is not ready".to_owned());
        };
        let Wanted { namespace, app, token, .. } = wanted;
        let query = wanted.asked.of_a_part(since);
        let path = format!("/v1/namespaces/{namespace}/apps/{app}/kept?{query}");
        let request = http::Request::get(path).header(TOKEN_HEADER, token).body(Vec::new());
        let request = request.map_err(|error| error.to_string())?;
        let client = self.peers.client_of(address).map_err(|error| error.to_string())?;
        let opening = tokio::time::timeout(ANSWER, client.request_stream(request)).await;
        match opening.map_err(|_| format!("no answer within {} s", ANSWER.as_secs()))? {
            Ok(reader) => Ok(Some(lines::read(Box::pin(reader)))),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn own(
        &self,
        wanted: &Wanted,
        since: Option<Timestamp>,
    ) -> std::io::Result<Option<Lines>> {
        let options = Options { since: since.or(wanted.options.since), ..wanted.options.clone() };
        let options =
            Options { tail_lines: options.tail_lines.filter(|_| since.is_none()), ..options };
        Ok(open(&self.dir, &wanted.namespace, &wanted.app, options).await?.map(lines::own))
    }
}

/// What is kept here of an App, with times and whole; `None` when that is nothing.
pub(super) async fn open(
    dir: &std::path::Path,
    namespace: &str,
    app: &str,
    options: Options,
) -> std::io::Result<Option<LogReader>> {
    let Some(path) = app_logs::log_path(dir, namespace, app) else { return Ok(None) };
    // Before anything was written there is nothing to wait at.
    if !path.parent().is_some_and(std::path::Path::is_dir) {
        return Ok(None);
    }
    let options = Options { timestamps: true, limit_bytes: None, ..options };
    match LogReader::open(&path, options).await {
        Ok(reader) => Ok(Some(reader)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
