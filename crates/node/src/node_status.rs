//! The Node object of this machine and its lease: what it has, how it is, that it lives.
//!
//! The status is written when it changes, and every five minutes when it does not; the lease says
//! every ten seconds that the agent lives. On exit both stay as they are: the pods go on.

mod conditions;
mod facts;
mod lease;

use std::time::Duration;

use berth_daemon::{Backoff, Tasks};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Config;
use crate::cri::Cri;
use conditions::{Health, Observed};
pub(crate) use facts::labels;

/// How often the machine is looked at and the lease is renewed.
const LOOK: Duration = Duration::from_secs(10);
/// How often an unchanged status is written, so that its heartbeat stays young.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// An API server that does not answer is asked again.
const API_DEADLINE: Duration = Duration::from_secs(10);
/// A runtime that is being restarted is back long before.
const RUNTIME_GRACE: Duration = Duration::from_secs(15);
/// Between looks until the first one finds the runtime ready.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// Why the Node object was not written; it is tried again.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error("cannot write node {name:?}")]
    Api {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("no answer about node {name:?}")]
    Late { name: String },
}

/// Registers the node and keeps its status and lease until `tasks` stop.
pub fn start(client: kube::Client, config: Config, cri: Cri, tasks: &Tasks) {
    let keeper = Keeper {
        nodes: Api::all(client.clone()),
        facts: facts::Facts::read(),
        runtime_seen: None,
        written: None,
        config: config.clone(),
        cri,
    };
    tasks.spawn_until_stop("node status", keeper.run());
    tasks.spawn_until_stop("node lease", lease::keep(client, config.name));
}

struct Keeper {
    config: Config,
    nodes: Api<Node>,
    cri: Cri,
    facts: facts::Facts,
    /// When the runtime was ready last.
    runtime_seen: Option<Instant>,
    /// The status that was written last, without heartbeats, and when.
    written: Option<(Value, Instant)>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), LOOK);
        while let Err(error) = self.register().await {
            tracing::warn!(%error, "the node is not registered yet");
            tokio::time::sleep(backoff.next_delay()).await;
        }
        loop {
            let wait = match self.look().await {
                Ok(()) if self.runtime_seen.is_some() => LOOK,
                Ok(()) => FIRST_LOOK,
                Err(error) => {
                    tracing::warn!(%error, "the node's status is not written");
                    backoff.next_delay()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Makes the Node object, or brings its labels up to date.
    async fn register(&self) -> Result<(), StatusError> {
        let name = &self.config.name;
        let labels = facts::labels(name);
        let annotations = facts::annotations(&self.config);
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": name, "labels": labels, "annotations": annotations },
            "spec": {
                "podCIDR": self.config.pod_range.to_string(),
                "podCIDRs": [self.config.pod_range.to_string()],
            },
        });
        if self.ask(self.nodes.get_opt(name)).await?.is_some() {
            let patch = Patch::Merge(json!({
                "metadata": { "labels": labels, "annotations": annotations },
            }));
            self.ask(self.nodes.patch(name, &PatchParams::default(), &patch)).await?;
            return Ok(());
        }
        let node: Node = serde_json::from_value(node).expect("the fields of a Node");
        self.ask(self.nodes.create(&PostParams::default(), &node)).await?;
        Ok(())
    }

    /// Looks at the machine and writes what has changed.
    async fn look(&mut self) -> Result<(), StatusError> {
        let health = self.health().await;
        let Some(node) = self.ask(self.nodes.get_opt(&self.config.name)).await? else {
            // Somebody deleted it while this machine lives.
            self.written = None;
            return self.register().await;
        };
        let images = self.cri.list_images().await.unwrap_or_default();
        let mut status = facts::status(&self.config, &self.facts, &images);
        let states = conditions::states(&health);
        status["conditions"] = json!(states);
        let (now, due) = (Timestamp::now(), self.is_due(&status));
        let present = node.status.as_ref().and_then(|status| status.conditions.as_deref());
        let present = present.unwrap_or_default();
        if !due && conditions::hold(present, &states) {
            return Ok(());
        }
        let signature = status.clone();
        status["conditions"] = json!(conditions::merge(present, &states, now));
        let patch = Patch::Merge(json!({ "status": status }));
        let name = &self.config.name;
        self.ask(self.nodes.patch_status(name, &PatchParams::default(), &patch)).await?;
        self.written = Some((signature, Instant::now()));
        Ok(())
    }

    fn is_due(&self, status: &Value) -> bool {
        self.written
            .as_ref()
            .is_none_or(|(written, at)| written != status || at.elapsed() >= HEARTBEAT)
    }

    async fn health(&mut self) -> Health {
        let runtime = match self.cri.status().await {
            Ok(status) => {
                let conditions = status.status.unwrap_or_default().conditions;
                match conditions.into_iter().find(|condition| !condition.status) {
                    None => Ok(()),
                    Some(bad) => Err(format!("{}: {} {}", bad.r#type, bad.reason, bad.message)),
                }
            }
            Err(error) => Err(error.to_string()),
        };
        if runtime.is_ok() {
            if self.runtime_seen.is_none() {
                self.facts.runtime = self.runtime_version().await;
            }
            self.runtime_seen = Some(Instant::now());
        }
        let lately = self.runtime_seen.is_some_and(|seen| seen.elapsed() < RUNTIME_GRACE);
        Observed::read(&self.config).health(if lately { Ok(()) } else { runtime })
    }

    async fn runtime_version(&self) -> String {
        match self.cri.version().await {
            Ok(version) => format!("{}://{}", version.runtime_name, version.runtime_version),
            Err(_) => "containerd://unknown".to_owned(),
        }
    }

    async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, StatusError> {
        let name = self.config.name.clone();
        match tokio::time::timeout(API_DEADLINE, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(StatusError::Api { name, source: Box::new(source) }),
            Err(_) => Err(StatusError::Late { name }),
        }
    }
}
