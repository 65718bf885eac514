//! What happened to pods, as Events of the API.
//!
//! Telling must never hold up doing: events go through a bounded channel to one task, the same
//! event again only counts up, a pod that has too much to say is cut short, and what the API server
//! does not take is dropped.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use berth_daemon::Tasks;

/// Waiting events; a burst beyond is dropped.
const QUEUE: usize = 1024;
/// An object may say this much at once, then one event each [`REFILL`], as with the kubelet.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Remembered events; the oldest are forgotten and would be written anew.
const REMEMBERED: usize = 4096;

/// Tells the API what happened. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<Said>);

#[derive(Debug)]
struct Said {
    about: ObjectReference,
    warning: bool,
    reason: Cow<'static, str>,
    message: String,
    at: Timestamp,
}

impl Events {
    /// Starts the task that writes events.
    pub fn start(client: kube::Client, node: &str, tasks: &Tasks) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            node: node.to_owned(),
            written: HashMap::new(),
            budgets: HashMap::new(),
        };
        tasks.spawn_until_stop("events", writer.run(receiver));
        Self(sender)
    }

    /// Something ordinary about a pod, or about one container of it.
    pub fn normal(
        &self,
        pod: &Pod,
        container: Option<&str>,
        reason: &'static str,
        message: String,
    ) {
        self.say(pod, container, false, reason.into(), message);
    }

    /// Something that went wrong.
    pub fn warning(
        &self,
        pod: &Pod,
        container: Option<&str>,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) {
        self.say(pod, container, true, reason.into(), message);
    }

    fn say(
        &self,
        pod: &Pod,
        container: Option<&str>,
        warning: bool,
        reason: Cow<'static, str>,
        message: String,
    ) {
        let list = |name: &str| {
            let spec = pod.spec.as_ref();
            let init = spec.and_then(|spec| spec.init_containers.as_ref());
            let is_init = init.is_some_and(|all| all.iter().any(|own| own.name == name));
            if is_init { "initContainers" } else { "containers" }
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| format!("spec.{}{{{name}}}", list(name))),
        };
        let said = Said { about, warning, reason, message, at: Timestamp::now() };
        if let Err(error) = self.0.try_send(said) {
            let reason = error.into_inner().reason;
            tracing::debug!(%reason, "event dropped, too many wait");
        }
    }
}

struct Writer {
    client: kube::Client,
    node: String,
    written: HashMap<String, Written>,
    budgets: HashMap<String, Budget>,
}

struct Written {
    name: String,
    count: i32,
    at: Instant,
}

struct Budget {
    left: f64,
    at: Instant,
}

impl Writer {
    async fn run(mut self, mut said: mpsc::Receiver<Said>) {
        while let Some(said) = said.recv().await {
            if !self.may_speak(&said) {
                continue;
            }
            match tokio::time::timeout(CALL_LIMIT, self.write(&said)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, reason = %said.reason, "event not taken"),
                Err(_) => tracing::debug!(reason = %said.reason, "event not taken in time"),
            }
        }
    }

    fn may_speak(&mut self, said: &Said) -> bool {
        let now = Instant::now();
        if self.budgets.len() > REMEMBERED {
            self.budgets.retain(|_, budget| now.duration_since(budget.at) < REFILL);
        }
        let uid = said.about.uid.clone().unwrap_or_default();
        let budget = self.budgets.entry(uid).or_insert(Budget { left: BURST, at: now });
        let earned = now.duration_since(budget.at).as_secs_f64() / REFILL.as_secs_f64();
        budget.left = (budget.left + earned).min(BURST);
        budget.at = now;
        let may = budget.left >= 1.0;
        if may {
            budget.left -= 1.0;
        }
        may
    }

    async fn write(&mut self, said: &Said) -> Result<(), kube::Error> {
        let namespace = said.about.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let key = format!(
            "{:?} {:?} {} {}",
            said.about.uid, said.about.field_path, said.reason, said.message
        );
        if let Some(written) = self.written.get_mut(&key) {
            written.count += 1;
            let patch = serde_json::json!({"count": written.count, "lastTimestamp": Time(said.at)});
            let patched =
                api.patch(&written.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            match patched {
                Ok(_) => return Ok(()),
                // Events expire; the next one begins anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!(
            "{}.{:x}",
            said.about.name.as_deref().unwrap_or_default(),
            said.at.as_nanosecond()
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: said.about.clone(),
            reason: Some(said.reason.to_string()),
            message: Some(said.message.clone()),
            type_: Some(if said.warning { "Warning" } else { "Normal" }.to_owned()),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: Some(Time(said.at)),
            last_timestamp: Some(Time(said.at)),
            count: Some(1),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        if self.written.len() >= REMEMBERED {
            let oldest = self.written.iter().min_by_key(|(_, written)| written.at);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.written.remove(&key);
            }
        }
        self.written.insert(key, Written { name, count: 1, at: Instant::now() });
        Ok(())
    }
}
