//! Who gave an App other replicas, from what the cluster and this console know of it.

use std::time::Duration;

use berth_api::app::App;
use berth_api::release::{APP_LABEL, Release};
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, MetricStatus};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::Change;
use crate::acts::{Acts, Filter};
use crate::database::now;

const CALL: Duration = Duration::from_secs(5);
/// Events and acts are written behind what they tell of: so often it is looked, a second apart.
const LOOKS: u32 = 6;
const APART: Duration = Duration::from_secs(1);
/// What is older than this before the change did not make it, milliseconds.
const NEAR: i64 = 15_000;

/// Who the API server says wrote the replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writer {
    pub name: String,
    pub at: Option<i64>,
    /// By way of the subresource that autoscalers use, and `kubectl scale`.
    pub scaled: bool,
}

/// By the App's managed fields.
pub(super) fn writer(app: &App) -> Writer {
    let entries = app.metadata.managed_fields.iter().flatten().filter(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    });
    let last = entries.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    let at = last.and_then(|entry| Some(entry.time.as_ref()?.0.as_millisecond()));
    let scaled = last.is_some_and(|entry| entry.subresource.as_deref() == Some("scale"));
    Writer { name: last.and_then(|entry| entry.manager.clone()).unwrap_or_default(), at, scaled }
}

/// What tells of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// What the autoscaler gave as its reason, and what it had measured.
    autoscaler: Option<String>,
    /// Whose act of this console it was.
    account: Option<String>,
    /// The Release that came with it: its name, who asked for it, why.
    release: Option<(String, String, String)>,
}

impl Evidence {
    fn is_enough(&self) -> bool {
        self.autoscaler.is_some() || self.account.is_some()
    }

    /// Who, and why.
    pub(super) fn told(self, change: &Change) -> (String, String) {
        if let Some(why) = self.autoscaler {
            return ("autoscaler".to_owned(), why);
        }
        let (asked, why) = match self.release {
            Some((name, author, cause)) => (author, format!("{name} {cause}").trim().to_owned()),
            None => (String::new(), String::new()),
        };
        let named = [self.account.unwrap_or_default(), asked, change.writer.name.clone()];
        (named.into_iter().find(|name| !name.is_empty()).unwrap_or_default(), why)
    }
}

/// Gathers it; what is not fresh any more is not looked for.
pub(super) async fn evidence(client: &Client, acts: &Acts, change: &Change) -> Evidence {
    let mut found = Evidence::default();
    if !change.live {
        return found;
    }
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(APART).await;
        }
        if change.writer.scaled {
            found.autoscaler = within(autoscaled(client, change)).await;
        } else {
            found.release = within(released(client, change)).await;
        }
        found.account = acted(acts, change).await;
        if found.is_enough() {
            break;
        }
    }
    found
}

async fn within<T>(asked: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(CALL, asked).await.ok().flatten()
}

async fn autoscaled(client: &Client, change: &Change) -> Option<String> {
    let events: Api<Event> = Api::namespaced(client.clone(), &change.namespace);
    let fields = format!("involvedObject.name={},reason=SuccessfulRescale", change.app);
    let all = events.list(&ListParams::default().fields(&fields)).await.ok()?;
    let wanted = format!("New size: {}; reason: ", change.after);
    let fresh = |event: &&Event| moment(event).is_some_and(|at| at > change.at - NEAR);
    let found = all.items.iter().filter(fresh);
    let why = found.filter_map(|event| event.message.as_deref()?.strip_prefix(&wanted)).next()?;
    let scalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), &change.namespace);
    let scaler = scalers.get_opt(&change.app).await.ok().flatten();
    let status = scaler.and_then(|scaler| scaler.status);
    let measures = status.and_then(|status| status.current_metrics).unwrap_or_default();
    let measures: Vec<String> = measures.iter().filter_map(measure).collect();
    Some(if measures.is_empty() {
        why.to_owned()
    } else {
        format!("{why}: {}", measures.join(", "))
    })
}

/// When an event was last told, milliseconds since 1970.
fn moment(event: &Event) -> Option<i64> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let times = [
        series.map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
    ];
    times.into_iter().flatten().max().map(|time| time.as_millisecond())
}

fn measure(status: &MetricStatus) -> Option<String> {
    let resource = status.resource.as_ref()?;
    let now = &resource.current;
    let percent = now.average_utilization.map(|percent| format!("{percent} %"));
    Some(format!("{} {}", resource.name, percent.or(now.average_value.clone().map(|v| v.0))?))
}

async fn acted(acts: &Acts, change: &Change) -> Option<String> {
    let path = format!("/apis/berth.dev/v1/namespaces/{}/apps", change.namespace);
    let filter = Filter { path: path.clone(), ..Filter::default() };
    let all = acts.list(&filter).await.ok()?;
    let own = match change.writer.scaled {
        true => vec![format!("{path}/{}/scale", change.app)],
        false => vec![path.clone(), format!("{path}/{}", change.app)],
    };
    let did = |act: &&crate::acts::Kept| {
        let wrote = ["PUT", "PATCH"].contains(&&*act.verb) && act.path != path
            || act.verb == "POST" && act.path == path && change.before == super::UNKNOWN;
        wrote && act.status < 300 && own.contains(&act.path) && act.at > change.at - NEAR
    };
    all.iter().find(did).map(|act| act.account.clone())
}

async fn released(client: &Client, change: &Change) -> Option<(String, String, String)> {
    let releases: Api<Release> = Api::namespaced(client.clone(), &change.namespace);
    let labels = format!("{APP_LABEL}={}", change.app);
    let all = releases.list(&ListParams::default().labels(&labels)).await.ok()?;
    let latest = all.items.into_iter().max_by_key(|release| release.spec.revision)?;
    let made = latest.creation_timestamp()?.0.as_millisecond();
    // Another one is that of a change of its own.
    if made < change.at - NEAR || made > now() {
        return None;
    }
    Some((latest.name_any(), latest.spec.author, latest.spec.cause))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change() -> Change {
        let writer = Writer { name: "kubectl-scale".to_owned(), at: None, scaled: true };
        let (namespace, app) = ("shop".to_owned(), "web".to_owned());
        let version = "7".to_owned();
        Change { namespace, app, version, at: 0, before: 2, after: 3, writer, live: true }
    }

    #[test]
    fn who_scaled_is_who_is_nearest_to_it() {
        let told = |evidence: Evidence| {
            let (who, why) = evidence.told(&change());
            format!("{who}|{why}")
        };
        let autoscaler = Some("cpu above target: cpu 91 %".to_owned());
        let account = Some("ann".to_owned());
        let release = Some(("web-3".to_owned(), "bob".to_owned(), "sale".to_owned()));
        let all = Evidence { autoscaler, account, release };
        assert_eq!(told(all.clone()), "autoscaler|cpu above target: cpu 91 %");
        let person = Evidence { autoscaler: None, ..all };
        assert_eq!(told(person.clone()), "ann|web-3 sale");
        assert_eq!(told(Evidence { account: None, ..person }), "bob|web-3 sale");
        assert_eq!(told(Evidence::default()), "kubectl-scale|");
    }

    #[test]
    fn the_writer_is_the_last_who_wrote_replicas() {
        let entry = |name: &str, time: &str, field: &str| {
            json!({ "manager": name, "time": time, "operation": "Update",
                    "fieldsV1": { "f:spec": { field: {} } } })
        };
        let app = json!({
            "apiVersion": "berth.dev/v1", "kind": "App", "spec": { "image": "x", "replicas": 2 },
            "metadata": { "name": "web", "managedFields": [
                entry("first", "2026-11-21T10:00:00Z", "f:replicas"),
                entry("second", "2026-11-21T11:00:00Z", "f:replicas"),
                entry("other", "2026-11-21T12:00:00Z", "f:image"),
            ] },
        });
        let found = writer(&serde_json::from_value(app).unwrap());
        assert_eq!((found.name.as_str(), found.at), ("second", Some(1_795_258_800_000)));
        assert!(!found.scaled);
    }

    #[test]
    fn a_measure_is_said_with_its_unit() {
        let status = |current: serde_json::Value| {
            let resource = json!({ "name": "cpu", "current": current });
            let status = json!({ "type": "Resource", "resource": resource });
            measure(&serde_json::from_value(status).unwrap())
        };
        assert_eq!(status(json!({ "averageUtilization": 91 })).unwrap(), "cpu 91 %");
        assert_eq!(status(json!({ "averageValue": "20m" })).unwrap(), "cpu 20m");
        assert_eq!(status(json!({})), None);
    }
}
