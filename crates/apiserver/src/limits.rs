//! Fairness: which requests are worked on now, which wait, and which are refused.
//!
//! ```text
//! request ─▶ FlowSchema (who, what) ─▶ PriorityLevel: a seat, or a queue, or 429
//!                     └ flow: user or namespace ─▶ its hand of queues, the shortest
//! ```
//!
//! Watches, logs and sessions are not counted: they wait, they do not work. Refuses to lend seats
//! from one level to another: `lendablePercent` is stored, not used.
//!
//! # Source
//! KEP-1040, API Priority and Fairness; shuffle sharding as in its dealer.

mod bodies;
mod level;
mod schema;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use berth_store::{Change, Entry};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use crate::follow::Seen;
use crate::object;
use crate::path::Target;
use crate::status::Failure;
use crate::user::User;

use bodies::Bodies;
use level::{Level, Queuing, Refusal, Seat};
use schema::Schema;

/// The part of the store it follows.
pub(crate) const PREFIX: &str = "/registry/flowcontrol.apiserver.k8s.io/";
/// Seats of all levels together, by processor: requests of the embedded store do not wait for
/// anything else. Kubernetes has 600 on any machine.
const SEATS_PER_PROCESSOR: usize = 32;

/// Decides by flow schemas and priority levels, which it follows.
pub(crate) struct Limits {
    pub(crate) bodies: Bodies,
    now: ArcSwap<Snapshot>,
    held: Mutex<Held>,
    seats: u32,
}

#[derive(Default)]
struct Held {
    schemas: BTreeMap<String, Value>,
    levels: BTreeMap<String, Value>,
}

struct Snapshot {
    /// By precedence; the last one takes everything.
    schemas: Vec<Schema>,
}

/// Held while a request is worked on.
pub(crate) struct Admitted {
    ids: Option<(HeaderValue, HeaderValue)>,
    _seat: Option<Seat>,
}

impl Admitted {
    /// Tells the client which schema and level its request was of.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if let Some((schema, level)) = &self.ids {
            headers.insert("x-kubernetes-pf-flowschema-uid", schema.clone());
            headers.insert("x-kubernetes-pf-prioritylevel-uid", level.clone());
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let seats = u32::try_from((processors * SEATS_PER_PROCESSOR).clamp(128, 600));
        Self::new(seats.unwrap_or(600))
    }
}

impl Limits {
    fn new(seats: u32) -> Self {
        let now = ArcSwap::from_pointee(build(&Held::default(), seats, &HashMap::new()));
        Self { bodies: Bodies::default(), now, held: Mutex::default(), seats }
    }

    /// Takes note of a change of schemas and levels.
    pub(crate) fn see(&self, seen: Seen<'_>) {
        let mut held = self.held.lock().expect("nothing panics while holding it");
        match seen {
            Seen::All(entries) => {
                *held = Held::default();
                entries.iter().for_each(|entry| held.put(entry));
            }
            Seen::Change(Change::Put { entry, .. }) => held.put(entry),
            Seen::Change(Change::Delete { previous, .. }) => held.remove(&previous.key),
        }
        let before = self.now.load();
        let levels =
            before.schemas.iter().map(|one| (one.level.name.clone(), one.level.clone())).collect();
        self.now.store(Arc::new(build(&held, self.seats, &levels)));
    }

    /// Waits for a seat; 429 when there is none in time.
    pub(crate) async fn admit(
        &self,
        user: &User,
        target: &Target,
        is_long: bool,
    ) -> Result<Admitted, Failure> {
        let (level, flow, ids) = {
            let now = self.now.load();
            let schema = now
                .schemas
                .iter()
                .find(|schema| schema.matches(user, target))
                .or(now.schemas.last())
                .expect("a snapshot always ends with a schema that takes everything");
            (schema.level.clone(), schema.flow(user, target), schema.ids.clone())
        };
        if is_long {
            return Ok(Admitted { ids, _seat: None });
        }
        match level.seat(flow).await {
            Ok(seat) => Ok(Admitted { ids, _seat: Some(seat) }),
            Err(refusal) => Err(Failure::too_many_requests(
                match refusal {
                    Refusal::Full => "too many requests, please try again later: the queue is full",
                    Refusal::Slow => "too many requests, please try again later: waited too long",
                },
                1,
            )),
        }
    }

    /// What `/metrics` shows of it.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        let mut levels: BTreeMap<String, Arc<Level>> = BTreeMap::new();
        for schema in &self.now.load().schemas {
            levels.insert(schema.level.name.clone(), schema.level.clone());
        }
        let mut family = |name: &str, kind: &str, value: &dyn Fn(&level::Figures) -> String| {
            let name = format!("apiserver_flowcontrol_{name}");
            let _ = writeln!(out, "# TYPE {name} {kind}");
            for (level, state) in &levels {
                for line in value(&state.figures()).lines() {
                    let (more, value) = line.split_once('|').unwrap_or(("", line));
                    let _ = writeln!(out, "{name}{{priority_level=\"{level}\"{more}}} {value}");
                }
            }
        };
        family("nominal_limit_seats", "gauge", &|figures| figures.limit.to_string());
        family("current_executing_requests", "gauge", &|figures| figures.executing.to_string());
        family("current_inqueue_requests", "gauge", &|figures| figures.waiting.to_string());
        family("dispatched_requests_total", "counter", &|figures| figures.dispatched.to_string());
        family("rejected_requests_total", "counter", &|figures| {
            format!(
                ",reason=\"queue-full\"|{}\n,reason=\"time-out\"|{}",
                figures.full, figures.slow
            )
        });
        out
    }
}

impl Held {
    fn put(&mut self, entry: &Entry) {
        let Some((plural, name)) = parts(&entry.key) else { return };
        let Ok(object) = serde_json::from_slice::<Value>(&entry.value) else { return };
        match plural {
            "flowschemas" => drop(self.schemas.insert(name.to_owned(), object)),
            "prioritylevelconfigurations" => drop(self.levels.insert(name.to_owned(), object)),
            _ => {}
        }
    }

    fn remove(&mut self, key: &[u8]) {
        match parts(key) {
            Some(("flowschemas", name)) => drop(self.schemas.remove(name)),
            Some(("prioritylevelconfigurations", name)) => drop(self.levels.remove(name)),
            _ => {}
        }
    }
}

fn parts(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')
}

/// Compiles what is held; levels that are as they were keep their queues.
fn build(held: &Held, seats: u32, before: &HashMap<String, Arc<Level>>) -> Snapshot {
    let shares_of = |level: &Value| {
        let limited = &level["spec"]["limited"];
        limited["nominalConcurrencyShares"].as_u64().unwrap_or(30)
    };
    let is_exempt = |level: &Value| level["spec"]["type"] == "Exempt";
    let sum: u64 = held.levels.values().filter(|level| !is_exempt(level)).map(shares_of).sum();
    let mut levels: HashMap<&str, (Arc<Level>, &str)> = HashMap::new();
    for (name, level) in &held.levels {
        let limit = if is_exempt(level) {
            None
        } else {
            let seats = (u64::from(seats) * shares_of(level)).div_ceil(sum.max(1));
            Some(u32::try_from(seats).unwrap_or(u32::MAX))
        };
        let queuing = Queuing::of(&level["spec"]["limited"]["limitResponse"]);
        let kept = before.get(name).filter(|old| old.queuing == queuing);
        let level_now =
            kept.cloned().unwrap_or_else(|| Arc::new(Level::new(name.clone(), queuing)));
        level_now.set_limit(limit);
        levels.insert(name, (level_now, object::uid(level)));
    }
    let mut schemas: Vec<Schema> = held
        .schemas
        .values()
        .filter_map(|schema| {
            let name = schema["spec"]["priorityLevelConfiguration"]["name"].as_str()?;
            let (level, uid) = levels.get(name)?;
            Some(Schema::compile(schema, level.clone(), uid))
        })
        .collect();
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    // Somebody may have deleted the last one, and at the very start there are none.
    let last = before.get("catch-all").cloned().unwrap_or_else(|| {
        let level = Arc::new(Level::new("catch-all".to_owned(), None));
        level.set_limit(Some(seats));
        level
    });
    schemas.push(Schema::everything(last));
    Snapshot { schemas }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    fn limits(seats: u32) -> Limits {
        let limits = Limits::new(seats);
        let mut held = limits.held.lock().unwrap();
        for object in berth_schema::facts::bootstrap() {
            let name = object::name(&object).to_owned();
            match object["kind"].as_str() {
                Some("FlowSchema") => drop(held.schemas.insert(name, object)),
                Some("PriorityLevelConfiguration") => drop(held.levels.insert(name, object)),
                _ => {}
            }
        }
        limits.now.store(Arc::new(build(&held, seats, &HashMap::new())));
        drop(held);
        limits
    }

    fn list_pods() -> Target {
        Target {
            is_resource: true,
            verb: "list".to_owned(),
            resource: "pods".to_owned(),
            version: "v1".to_owned(),
            ..Target::default()
        }
    }

    #[test]
    fn bootstrap_schemas_tell_users_apart() {
        let limits = limits(245);
        let now = limits.now.load();
        let level = |user: &User, target: &Target| {
            let schema = now.schemas.iter().find(|schema| schema.matches(user, target)).unwrap();
            schema.level.name.clone()
        };
        let account = User::service_account("a", "b", "");
        assert_eq!(level(&account, &list_pods()), "workload-low");
        let own = User::service_account("kube-system", "b", "");
        assert_eq!(level(&own, &list_pods()), "workload-high");
        assert_eq!(level(&User::new("x", &["system:masters"]), &list_pods()), "exempt");
        assert_eq!(level(&User::new("x", &[]), &list_pods()), "global-default");
        assert_eq!(level(&User::new("n", &["system:nodes"]), &list_pods()), "system");
        let health = Target { verb: "get".into(), path: "/readyz".into(), ..Target::default() };
        assert_eq!(level(&User::anonymous(), &health), "exempt");
        let low = now.schemas.iter().find(|one| one.level.name == "workload-low").unwrap();
        assert_eq!(low.level.figures().limit, 100, "245 seats by 245 shares");
    }

    #[tokio::test]
    async fn a_busy_flow_does_not_starve_another() {
        let limits = Arc::new(limits(2));
        let greedy = User::service_account("a", "greedy", "");
        let modest = User::service_account("a", "modest", "");
        let held = limits.admit(&greedy, &list_pods(), false).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..40 {
            let (limits, greedy) = (limits.clone(), greedy.clone());
            waiting.push(Box::pin(async move { limits.admit(&greedy, &list_pods(), false).await }));
        }
        for one in &mut waiting {
            assert!(futures::poll!(one.as_mut()).is_pending(), "queued");
        }
        let target = list_pods();
        let mut other = Box::pin(limits.admit(&modest, &target, false));
        assert!(futures::poll!(other.as_mut()).is_pending());
        drop(held);
        let mut finished = 0;
        // One seat goes round: the newcomer has it after at most two of the others.
        for one in waiting {
            if let std::task::Poll::Ready(admitted) = futures::poll!(other.as_mut()) {
                assert!(admitted.is_ok());
                break;
            }
            drop(one.await.unwrap());
            finished += 1;
        }
        assert!(finished <= 2, "after {finished}");
    }

    #[tokio::test]
    async fn full_queues_refuse_and_masters_never_wait() {
        let limits = limits(1);
        let user = User::service_account("a", "greedy", "");
        let (target, mut held, mut refused) = (list_pods(), Vec::new(), 0);
        let seat = limits.admit(&user, &target, false).await.unwrap();
        for _ in 0..1000 {
            let mut one = Box::pin(limits.admit(&user, &target, false));
            match futures::poll!(one.as_mut()) {
                std::task::Poll::Ready(Err(failure)) => {
                    assert_eq!((failure.code, failure.retry_after), (429, Some(1)));
                    refused += 1;
                }
                _ => held.push(one),
            }
        }
        assert_eq!(refused, 700, "a hand of six queues holds 50 each");
        let admin = User::new("admin", &["system:masters"]);
        assert!(limits.admit(&admin, &target, false).await.is_ok());
        assert!(limits.render().contains("reason=\"queue-full\"} "), "{}", limits.render());
        drop((seat, held));
    }

    #[tokio::test]
    async fn a_new_share_reaches_a_level_with_requests_under_way() {
        let limits = limits(245);
        let user = User::service_account("a", "b", "");
        let seat = limits.admit(&user, &list_pods(), false).await.unwrap();
        let mut held = limits.held.lock().unwrap();
        held.levels.get_mut("workload-low").unwrap()["spec"]["limited"]["nominalConcurrencyShares"] =
            json!(1);
        drop(held);
        let held = limits.held.lock().unwrap();
        let before = limits.now.load();
        let levels =
            before.schemas.iter().map(|one| (one.level.name.clone(), one.level.clone())).collect();
        let after = build(&held, 146, &levels);
        let low = after.schemas.iter().find(|one| one.level.name == "workload-low").unwrap();
        assert_eq!((low.level.figures().limit, low.level.figures().executing), (1, 1));
        drop(seat);
        assert_eq!(low.level.figures().executing, 0);
    }

    #[tokio::test]
    async fn a_free_seat_is_taken_at_once() {
        let limits = limits(600);
        let (user, target) = (User::service_account("a", "b", ""), list_pods());
        let started = Instant::now();
        for _ in 0..10_000 {
            drop(limits.admit(&user, &target, false).await.unwrap());
        }
        eprintln!("{:?} for each of 10000", started.elapsed() / 10_000);
        let now = limits.now.load();
        let low = now.schemas.iter().find(|one| one.level.name == "workload-low").unwrap();
        let figures = low.level.figures();
        assert_eq!((figures.dispatched, figures.executing, figures.waiting), (10_000, 0, 0));
    }
}
