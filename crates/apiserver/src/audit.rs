//! The audit log: who changed what, or opened a session, and what came of it.
//!
//! One line of JSON per request, in the shape of Kubernetes' `audit.k8s.io/v1` Event at the level
//! Metadata: bodies are never logged, so neither is what is in secrets. Lines are written off the
//! request's path by a thread behind a bounded channel; when the disk is full or too slow requests
//! go on, and what is lost is counted.

mod file;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use berth_daemon::Tasks;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderValue, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::admission::Told;
use crate::path::{Query, Target};
use crate::respond::Body;
use crate::user::User;
use file::Rotated;

/// Lines that may wait for the disk; some tens of megabytes at most.
const WAITING: usize = 16 * 1024;
const FLUSHED_WITHIN: Duration = Duration::from_secs(3);

/// Where and how much is logged.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that is written to; older ones are beside it as `FILE.1`, `FILE.2` and so on.
    pub path: PathBuf,
    /// A file larger than this is set aside.
    pub max_bytes: u64,
    /// How many older files are kept.
    pub kept: usize,
}

impl Options {
    /// 100 MiB in a file, and five older ones.
    pub fn new(path: PathBuf) -> Self {
        Self { path, max_bytes: 100 * 1024 * 1024, kept: 5 }
    }
}

enum Order {
    Line(String),
    Flush(oneshot::Sender<()>),
}

/// Takes lines once it is opened.
#[derive(Default)]
pub(crate) struct Audit {
    to: OnceLock<SyncSender<Order>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
}

/// The client's address, as a connection knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source(pub(crate) std::net::IpAddr);

/// The reason of a refusal, for the log; left on the answer by whoever rendered it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason(pub(crate) &'static str);

impl Audit {
    /// Opens the file and writes until the group stops.
    pub(crate) fn open(&self, options: Options, tasks: &Tasks) -> std::io::Result<()> {
        let file = Rotated::open(options)?;
        let (sender, receiver) = sync_channel(WAITING);
        let counts = self.counts.clone();
        std::thread::Builder::new()
            .name("audit log".to_owned())
            .spawn(move || write(file, &receiver, &counts))?;
        let flush = sender.clone();
        if self.to.set(sender).is_err() {
            return Err(std::io::Error::other("the audit log is open already"));
        }
        let inner = tasks.clone();
        tasks.spawn("audit log", async move {
            inner.stopping().await;
            let (done, flushed) = oneshot::channel();
            if flush.try_send(Order::Flush(done)).is_ok() {
                drop(tokio::time::timeout(FLUSHED_WITHIN, flushed).await);
            }
        });
        Ok(())
    }

    /// Starts to take note of a request.
    pub(crate) fn begin<'a>(
        &'a self,
        parts: &Parts,
        source: Option<Source>,
        target: &Arc<Target>,
        query: &Query,
    ) -> Trail<'a> {
        let own = parts.headers.get("audit-id").filter(|id| id.len() <= 64).cloned();
        let id = own.unwrap_or_else(|| {
            let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
            let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
            let mut id = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
                .expect("a UUID is letters, digits and dashes");
            // It never comes again: HTTP/2 need not keep it in its table of headers, nor compare
            // it with all the others there.
            id.set_sensitive(true);
            id
        });
        let logged = self.to.get().is_some() && is_logged(target, query);
        let text = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let known = logged.then(|| Known {
            received: Timestamp::now(),
            started: Instant::now(),
            uri: parts.uri.to_string(),
            agent: text(USER_AGENT.as_str()),
            source: source.map(|source| source.0.to_string()),
            dry_run: query.get("dryRun").is_some(),
            target: Arc::clone(target),
            who: Mutex::default(),
        });
        Trail { audit: self, id, known }
    }

    /// What `/metrics` shows of it.
    pub(crate) fn render(&self) -> String {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!(
            "# TYPE apiserver_audit_event_total counter\napiserver_audit_event_total {}\n# TYPE \
             apiserver_audit_error_total counter\napiserver_audit_error_total {}\n",
            get(&self.counts.written),
            get(&self.counts.lost)
        )
    }
}

fn write(mut file: Rotated, orders: &Receiver<Order>, counts: &Counts) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Line(line) => match file.write(&line) {
                Ok(()) => drop(counts.written.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    if counts.lost.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
                        tracing::warn!(%error, "writing the audit log");
                    }
                }
            },
            Order::Flush(done) => drop(done.send(())),
        }
    }
}

/// Whether a request changes something or opens a session. Questions and leases' heartbeats do
/// not: the latter would be most of the log.
fn is_logged(target: &Target, query: &Query) -> bool {
    if !target.is_resource {
        return !matches!(target.verb.as_str(), "get" | "head" | "options");
    }
    let session =
        matches!(target.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
            || (target.subresource == "log" && query.is_on("follow"));
    let question = target.resource.ends_with("accessreviews")
        || matches!(
            target.resource.as_str(),
            "selfsubjectrulesreviews" | "selfsubjectreviews" | "tokenreviews"
        );
    let heartbeat = target.group == "coordination.k8s.io" && target.namespace == "kube-node-lease";
    session || !(matches!(target.verb.as_str(), "get" | "list" | "watch") || question || heartbeat)
}

struct Known {
    received: Timestamp,
    started: Instant,
    uri: String,
    agent: String,
    source: Option<String>,
    dry_run: bool,
    target: Arc<Target>,
    who: Mutex<Who>,
}

#[derive(Default)]
struct Who {
    user: Option<Arc<User>>,
    acting_as: Option<Arc<User>>,
    annotations: Vec<(String, String)>,
    name: Option<String>,
}

/// What is noted of one request; written when it is answered, or given up.
pub(crate) struct Trail<'a> {
    audit: &'a Audit,
    id: HeaderValue,
    known: Option<Known>,
}

impl Trail<'_> {
    /// Whether it is worth finding out more.
    pub(crate) fn is_logged(&self) -> bool {
        self.known.is_some()
    }

    /// Notes who asks, and as whom.
    pub(crate) fn who(&self, user: &Arc<User>, acting_as: &Arc<User>) {
        let Some(known) = &self.known else { return };
        let mut who = known.who.lock().expect("nothing panics while holding it");
        who.user = Some(user.clone());
        who.acting_as = (user != acting_as).then(|| acting_as.clone());
    }

    /// Notes why authorization let it pass, or not.
    pub(crate) fn decided(&self, reason: Option<String>) {
        let Some(known) = &self.known else { return };
        let mut who = known.who.lock().expect("nothing panics while holding it");
        let decision = if reason.is_some() { "allow" } else { "forbid" };
        let key = |what: &str| format!("authorization.k8s.io/{what}");
        who.annotations.push((key("decision"), decision.to_owned()));
        who.annotations.extend(reason.map(|reason| (key("reason"), reason)));
    }

    /// Notes what admission has to tell.
    pub(crate) fn told(&self, told: Told) {
        let Some(known) = &self.known else { return };
        let mut who = known.who.lock().expect("nothing panics while holding it");
        who.annotations.extend(told.annotations);
        who.name = told.name;
    }

    /// Names the line on the answer, and writes it.
    pub(crate) fn finish(mut self, response: &mut Response<Body>) {
        response.headers_mut().insert("audit-id", self.id.clone());
        let code = response.status().as_u16();
        let reason = response.extensions().get::<Reason>().map(|reason| reason.0);
        self.write(Some(code), reason);
    }

    fn write(&mut self, code: Option<u16>, reason: Option<&str>) {
        let Some(known) = self.known.take() else { return };
        let Some(to) = self.audit.to.get() else { return };
        let line = event(&self.id, known, code, reason).to_string();
        if to.try_send(Order::Line(line)).is_err() {
            self.audit.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Trail<'_> {
    fn drop(&mut self) {
        // The client went away; what it asked for may have happened all the same.
        self.write(None, Some("ClientGone"));
    }
}

fn user_json(user: &User) -> Value {
    let mut json = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        json["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        json["extra"] = json!(user.extra);
    }
    json
}

fn event(id: &HeaderValue, known: Known, code: Option<u16>, reason: Option<&str>) -> Value {
    let who = known.who.into_inner().expect("nothing panics while holding it");
    let target = known.target;
    let mut event = json!({
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "stage": "ResponseComplete",
        "auditID": id.to_str().unwrap_or_default(),
        "requestURI": known.uri,
        "verb": target.verb,
        "requestReceivedTimestamp": known.received.to_string(),
        "stageTimestamp": Timestamp::now().to_string(),
        "durationMicros": u64::try_from(known.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        "userAgent": known.agent,
        "sourceIPs": known.source.into_iter().collect::<Vec<_>>(),
        "responseStatus": {"code": code, "reason": reason},
        "user": who.user.as_deref().map_or_else(|| user_json(&User::anonymous()), user_json),
    });
    if let Some(other) = who.acting_as {
        event["impersonatedUser"] = user_json(&other);
    }
    if known.dry_run {
        event["dryRun"] = json!(true);
    }
    if target.is_resource {
        let made = who.name.unwrap_or_default();
        let name = if target.name.is_empty() { &made } else { &target.name };
        let fields = [
            ("resource", &target.resource),
            ("namespace", &target.namespace),
            ("name", name),
            ("apiGroup", &target.group),
            ("apiVersion", &target.version),
            ("subresource", &target.subresource),
        ];
        let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
        let of: Map<String, Value> =
            fields.map(|(key, value)| (key.to_owned(), json!(value))).collect();
        event["objectRef"] = Value::Object(of);
    }
    if !who.annotations.is_empty() {
        let all: Map<String, Value> =
            who.annotations.into_iter().map(|(key, value)| (key, json!(value))).collect();
        event["annotations"] = Value::Object(all);
    }
    event
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn changes_and_sessions_are_logged_and_reads_are_not() {
        let check = |method: &str, uri: &str, expected: bool| {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let query = Query::parse(query);
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let target = Target::parse(&method, path, &query);
            assert_eq!(is_logged(&target, &query), expected, "{method} {uri}");
        };
        check("GET", "/api/v1/pods", false);
        check("GET", "/api/v1/pods?watch=1", false);
        check("GET", "/healthz", false);
        check("POST", "/api/v1/namespaces/a/pods", true);
        check("DELETE", "/api/v1/namespaces/a/pods/b", true);
        check("GET", "/api/v1/namespaces/a/pods/b/exec?command=ls", true);
        check("GET", "/api/v1/namespaces/a/pods/b/log", false);
        check("GET", "/api/v1/namespaces/a/pods/b/log?follow=true", true);
        check("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", false);
        check("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n", false);
        check("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/n", true);
    }
}
