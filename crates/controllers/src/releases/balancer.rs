//! Asks our own balancer how a release's instances answer: their share of good answers, and how
//! long these took.
//!
//! Every process of the balancer tells totals at the port that its readiness is asked at; what
//! counts is the difference between two looks, of all processes together, at instances that are in
//! both. No requests are no answer: what nobody asked cannot be judged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_api::answers::{self, Count, difference, places};
use berth_api::app::{Check, Measure};
use berth_api::labels;
use berth_api::release::{self, Release};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::judge::Reading;
use super::prometheus;
use crate::driver::{Key, World, chain};

/// Where the balancer is, and what it is called.
const NAMESPACE: &str = "berth-system";
const NAME: &str = "berth-balancer";
/// An answer that takes longer is none.
const LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at what a step's instances answer.
pub const PAUSE: Duration = Duration::from_secs(5);
/// Looks that nobody came back to are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Counts by where they were told and of whom.
type Counts = HashMap<(String, String), Count>;

/// The looks before.
#[derive(Debug, Default)]
pub struct Balancers {
    looks: Mutex<HashMap<String, (Instant, Counts)>>,
    seen: Mutex<HashMap<String, Seen>>,
}

/// A look at all instances of an App while a release of it is on its way.
#[derive(Debug)]
struct Seen {
    at: Instant,
    /// Whether a balancer ever answered.
    looked: bool,
    /// All that was ever counted, last numbers: addresses may change hands.
    counts: Counts,
    /// Endpoints of the release's own instances.
    new: Vec<String>,
}

impl Seen {
    fn nothing(at: Instant) -> Self {
        Self { at, looked: false, counts: Counts::new(), new: Vec::new() }
    }
}

impl Balancers {
    /// Asks the checks at these places of the release's strategy that are of the balancer. The
    /// first look of a check, and one that comes too soon after another, has no answer yet.
    pub async fn ask(
        &self,
        world: &World,
        key: &Key,
        release: &Release,
        which: &[usize],
        pods: &[Arc<Pod>],
    ) -> Vec<Reading> {
        let checks = which.iter().filter_map(|index| release.spec.strategy.checks.get(*index));
        let checks: Vec<(&Check, Measure)> =
            checks.filter_map(|check| Some((check, check.balancer?))).collect();
        if checks.is_empty() {
            return Vec::new();
        }
        let seen = look(world, &of(release, pods, true)).await;
        let mut readings = Vec::new();
        for (check, measure) in checks {
            let name = format!("{key}/{}/{}", release.name_any(), check.name);
            let value = match &seen {
                Err(error) => Err(error.clone()),
                // Nothing is ready yet: nothing to judge, and no step is reached either.
                Ok(counts) if counts.is_empty() => continue,
                Ok(counts) => match self.since(&name, counts, check.every_seconds) {
                    Some(difference) => value(measure, difference),
                    None => continue,
                },
            };
            readings.push(Reading { check: check.name.clone(), value, at: Timestamp::now() });
        }
        readings
    }

    /// What the release's instances answered since the last look at them. That was [`PAUSE`] ago,
    /// or a step ends (`at_once`). The first look has nothing before it; where no balancer answers
    /// there is none.
    pub async fn answered(
        &self,
        world: &World,
        key: &Key,
        release: &Release,
        pods: &[Arc<Pod>],
        at_once: bool,
    ) -> Option<Count> {
        let name = format!("{key}/{}", release.name_any());
        let now = Instant::now();
        let all = of(release, pods, false);
        {
            let mut seen = self.seen.lock().expect("no holder of the lock panics");
            seen.retain(|_, seen| now.duration_since(seen.at) < FORGOTTEN);
            let early = |seen: &Seen| now.duration_since(seen.at) < PAUSE;
            if all.is_empty() || (!at_once && seen.get(&name).is_some_and(early)) {
                return None;
            }
            // What does not answer is not asked again at once either.
            seen.entry(name.clone()).or_insert_with(|| Seen::nothing(now)).at = now;
        }
        let counts = look(world, &all).await.ok()?;
        let new = of(release, pods, true);
        let mut seen = self.seen.lock().expect("no holder of the lock panics");
        let before = seen.remove(&name).unwrap_or_else(|| Seen::nothing(now));
        let found = before.looked.then(|| gained(&before, &counts, &new));
        let mut known = before.counts;
        known.extend(counts);
        seen.insert(name, Seen { at: now, looked: true, counts: known, new });
        found
    }

    /// What came since the last look that is old enough; `counts` are looked at from then on.
    fn since(&self, name: &str, counts: &Counts, every_seconds: i64) -> Option<Count> {
        let now = Instant::now();
        let mut looks = self.looks.lock().expect("no holder of the lock panics");
        looks.retain(|_, (at, _)| now.duration_since(*at) < FORGOTTEN);
        let Some((at, before)) = looks.get(name) else {
            looks.insert(name.to_owned(), (now, counts.clone()));
            return None;
        };
        // The clock of who asks may be a moment early.
        let wanted = Duration::from_secs(u64::try_from(every_seconds).unwrap_or(1)).mul_f32(0.9);
        if now.duration_since(*at) < wanted {
            return None;
        }
        let found = difference(before, counts);
        looks.insert(name.to_owned(), (now, counts.clone()));
        Some(found)
    }
}

fn value(measure: Measure, sum: Count) -> Result<f64, String> {
    if sum.answers <= 0.0 {
        return Err("no requests came through the balancer".to_owned());
    }
    Ok(match measure {
        Measure::Success => 100.0 * (sum.answers - sum.failures) / sum.answers,
        Measure::Latency => 1000.0 * sum.seconds / sum.answers,
    })
}

/// What `new` answered since `before`. An endpoint that was another version's then, and changed
/// hands in between, cannot be told apart: it counts from the next look on.
fn gained(before: &Seen, counts: &Counts, new: &[String]) -> Count {
    let is_known = |endpoint: &String| before.counts.keys().any(|(_, known)| known == endpoint);
    let fresh = counts.iter().filter(|((_, endpoint), _)| {
        new.contains(endpoint) && (before.new.contains(endpoint) || !is_known(endpoint))
    });
    let fresh: Counts = fresh.map(|(of, count)| (of.clone(), *count)).collect();
    difference(&before.counts, &fresh)
}

/// The endpoints of the App's instances, or of the release's alone.
fn of(release: &Release, pods: &[Arc<Pod>], alone: bool) -> Vec<String> {
    let number = release.spec.revision.to_string();
    let spec = &release.spec.app_spec;
    let ports: Vec<i32> = spec.port.into_iter().chain(spec.ports.iter().map(|p| p.port)).collect();
    let is_new = |pod: &&Arc<Pod>| pod.labels().get(release::LABEL) == Some(&number);
    let addresses = pods
        .iter()
        .filter(|pod| !alone || is_new(pod))
        .filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
    addresses.flat_map(|ip| ports.iter().map(move |port| format!("{ip}:{port}"))).collect()
}

/// What all processes say of these endpoints now.
async fn look(world: &World, endpoints: &[String]) -> Result<Counts, String> {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), NAMESPACE);
    let params = ListParams::default().labels(&format!("{}={NAME}", labels::NAME));
    let found = tokio::time::timeout(LIMIT, api.list(&params)).await;
    let found = found.map_err(|_| "no answer to a list of the balancer's pods".to_owned())?;
    let found = found.map_err(|error| chain(&error))?;
    let places: Vec<String> = found.items.iter().flat_map(places).collect();
    if places.is_empty() {
        return Err("no balancer of Berth's runs".to_owned());
    }
    let asked = places.iter().map(|place| async move {
        let answer = tokio::time::timeout(LIMIT, prometheus::get(place, "/metrics")).await;
        (place, answer.unwrap_or_else(|_| Err("no answer".to_owned())))
    });
    let mut counts = Counts::new();
    for (place, answer) in join_all(asked).await {
        // One that is on its way out says nothing any more, and takes nothing any more.
        match answer {
            Ok((_, text)) => counts.extend(read(&text, place, endpoints)),
            Err(error) => tracing::debug!(place, error, "a balancer's metrics"),
        }
    }
    Ok(counts)
}

fn read(text: &str, place: &str, endpoints: &[String]) -> Counts {
    let ours = answers::read(text).into_iter();
    let ours = ours.filter(|(endpoint, _)| endpoints.iter().any(|known| known == endpoint));
    ours.map(|(endpoint, count)| ((place.to_owned(), endpoint.to_owned()), count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(answers: u32, failures: u32, seconds: f32) -> String {
        format!(
            "# TYPE berth_balancer_answers_total counter\n\
             berth_balancer_answers_total{{endpoint=\"10.0.0.5:8080\"}} {answers}\n\
             berth_balancer_answers_total{{endpoint=\"10.0.0.9:8080\"}} 1000\n\
             berth_balancer_failures_total{{endpoint=\"10.0.0.5:8080\"}} {failures}\n\
             berth_balancer_seconds_total{{endpoint=\"10.0.0.5:8080\"}} {seconds}\n"
        )
    }

    fn counts(answers: u32, failures: u32, seconds: f32) -> Counts {
        read(&text(answers, failures, seconds), "10.0.0.1:10260", &["10.0.0.5:8080".to_owned()])
    }

    #[test]
    fn what_came_between_two_looks_is_what_counts() {
        let found = difference(&counts(100, 50, 10.0), &counts(200, 51, 15.0));
        assert_eq!(value(Measure::Success, found), Ok(99.0));
        assert_eq!(value(Measure::Latency, found), Ok(50.0));
        let none = difference(&counts(100, 0, 1.0), &counts(100, 0, 1.0));
        assert!(value(Measure::Success, none).is_err(), "nobody asked");
        let anew = difference(&counts(100, 50, 10.0), &counts(10, 1, 1.0));
        assert_eq!(value(Measure::Success, anew), Ok(90.0), "a process that began anew");
        let fresh = difference(&Counts::new(), &counts(10, 5, 1.0));
        assert_eq!(value(Measure::Success, fresh), Ok(50.0));
    }

    #[test]
    fn an_address_that_changed_hands_counts_from_the_next_look_on() {
        let endpoint = |n: u8| format!("10.0.0.{n}:8080");
        let of = |counts: [(u8, f64); 2]| -> Counts {
            let place = "10.0.0.1:10260".to_owned();
            let count = |answers| Count { answers, failures: 0.0, seconds: 0.0 };
            counts.map(|(n, answers)| ((place.clone(), endpoint(n)), count(answers))).into()
        };
        let seen = |counts, new: &[u8]| Seen {
            at: Instant::now(),
            looked: true,
            counts,
            new: new.iter().map(|n| endpoint(*n)).collect(),
        };
        let new = [endpoint(5), endpoint(6)];
        let answers = |before: &Seen, now| gained(before, &of(now), &new).answers;
        let none = seen(Counts::new(), &[]);
        assert_eq!(
            answers(&none, [(5, 7.0), (9, 50.0)]),
            7.0,
            "came since; 9 is another version's"
        );
        let mine = seen(of([(5, 7.0), (9, 50.0)]), &[5]);
        assert_eq!(answers(&mine, [(5, 10.0), (6, 4.0)]), 7.0, "3 more, and 4 of one that came");
        let old = seen(of([(5, 100.0), (6, 100.0)]), &[6]);
        assert_eq!(answers(&old, [(5, 120.0), (6, 101.0)]), 1.0, "5 was the old version's");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_needs_one_before_it_that_is_old_enough() {
        let balancers = Balancers::default();
        assert_eq!(balancers.since("a", &counts(10, 0, 1.0), 15), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(balancers.since("a", &counts(20, 0, 2.0), 15), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        let found = balancers.since("a", &counts(30, 0, 3.0), 15).unwrap();
        assert_eq!(found.answers, 20.0, "since the look that was old enough");
        assert_eq!(balancers.since("b", &counts(30, 0, 3.0), 15), None, "checks do not share");
    }

    #[test]
    fn a_process_is_asked_where_its_readiness_is() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {}, "status": { "podIP": "10.0.0.1" },
            "spec": { "containers": [
                { "name": "a", "ports": [{ "name": "health", "containerPort": 10260 }],
                  "readinessProbe": { "httpGet": { "path": "/", "port": "health" } } },
                { "name": "b",
                  "readinessProbe": { "httpGet": { "host": "127.0.0.1", "port": 10261 } } },
                { "name": "c" },
            ] },
        }))
        .unwrap();
        assert_eq!(places(&pod), ["10.0.0.1:10260", "127.0.0.1:10261"]);
    }
}
