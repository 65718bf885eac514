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
/// Looks that nobody came back to are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Counts by where they were told and of whom.
type Counts = HashMap<(String, String), Count>;

/// The looks before.
#[derive(Debug, Default)]
pub struct Balancers {
    looks: Mutex<HashMap<String, (Instant, Counts)>>,
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
        let seen = look(world, &of(release, pods)).await;
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

/// The endpoints of the release's instances.
fn of(release: &Release, pods: &[Arc<Pod>]) -> Vec<String> {
    let number = release.spec.revision.to_string();
    let spec = &release.spec.app_spec;
    let ports: Vec<i32> = spec.port.into_iter().chain(spec.ports.iter().map(|p| p.port)).collect();
    let new = pods.iter().filter(|pod| pod.labels().get(release::LABEL) == Some(&number));
    let addresses = new.filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
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
