//! What was asked for and used within an hour: by app, by namespace, by all together.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::By;
use super::spread::Spread;

/// Apps that are told apart within an hour; those beyond count for their namespace and the cluster.
const MOST: usize = 5_000;

/// CPU in millicores and memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Amount {
    pub cpu: i64,
    pub memory: i64,
}

impl Amount {
    pub fn add(&mut self, other: Self) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
    }
}

/// A pod at one moment.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub namespace: Arc<str>,
    /// Empty: of none.
    pub app: Arc<str>,
    pub node: Arc<str>,
    pub requested: Amount,
    pub used: Amount,
}

/// Of whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub by: By,
    pub namespace: Arc<str>,
    pub app: Arc<str>,
}

/// Sums over samples, one a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub samples: i64,
    pub requested: Amount,
    pub used: Amount,
    pub cpu_spread: Spread,
    pub memory_spread: Spread,
}

impl Sums {
    fn sample(&mut self, requested: Amount, used: Amount) {
        self.samples += 1;
        self.requested.add(requested);
        self.used.add(used);
        self.cpu_spread.add(used.cpu);
        self.memory_spread.add(used.memory);
    }

    /// Of two parts of the same time, or of two times.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.requested.add(other.requested);
        self.used.add(other.used);
        self.cpu_spread.merge(&other.cpu_spread);
        self.memory_spread.merge(&other.memory_spread);
    }
}

/// One hour.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub sums: BTreeMap<Subject, Sums>,
    apps: usize,
}

impl Tally {
    /// All pods at one moment.
    pub fn sample(&mut self, pods: impl IntoIterator<Item = Seen>) {
        let mut now: BTreeMap<Subject, (Amount, Amount)> = BTreeMap::new();
        let none: Arc<str> = "".into();
        for pod in pods {
            let subjects = [
                Subject { by: By::Cluster, namespace: none.clone(), app: none.clone() },
                Subject { by: By::Namespace, namespace: pod.namespace.clone(), app: none.clone() },
                Subject { by: By::App, namespace: pod.namespace, app: pod.app },
            ];
            for subject in subjects {
                let (requested, used) = now.entry(subject).or_default();
                requested.add(pod.requested);
                used.add(pod.used);
            }
        }
        for (subject, (requested, used)) in now {
            if let Some(sums) = self.sums.get_mut(&subject) {
                sums.sample(requested, used);
                continue;
            }
            if subject.by == By::App {
                if self.apps >= MOST {
                    continue;
                }
                self.apps += 1;
            }
            self.sums.entry(subject).or_default().sample(requested, used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, app: &str, requested: i64, used: i64) -> Seen {
        let amount = |cpu| Amount { cpu, memory: cpu << 20 };
        Seen {
            namespace: namespace.into(),
            app: app.into(),
            node: "n".into(),
            requested: amount(requested),
            used: amount(used),
        }
    }

    #[test]
    fn pods_add_up_to_apps_namespaces_and_the_cluster() {
        let mut tally = Tally::default();
        let pods = [
            pod("shop", "web", 1000, 200),
            pod("shop", "web", 1000, 300),
            pod("shop", "", 100, 50),
            pod("bank", "web", 500, 500),
        ];
        tally.sample(pods.clone());
        tally.sample(pods);
        let told = |by: By, namespace: &str, app: &str| {
            let subject = Subject { by, namespace: namespace.into(), app: app.into() };
            let sums = &tally.sums[&subject];
            (sums.samples, sums.requested.cpu, sums.used.cpu)
        };
        assert_eq!(told(By::App, "shop", "web"), (2, 4000, 1000));
        assert_eq!(told(By::App, "shop", ""), (2, 200, 100));
        assert_eq!(told(By::App, "bank", "web"), (2, 1000, 1000));
        assert_eq!(told(By::Namespace, "shop", ""), (2, 4200, 1100));
        assert_eq!(told(By::Cluster, "", ""), (2, 5200, 2100));
        assert_eq!(tally.sums.len(), 6);
    }

    #[test]
    fn too_many_apps_still_count_for_the_cluster() {
        let mut tally = Tally::default();
        let pods = |from: usize| {
            (from..from + MOST).map(|number| pod("shop", &format!("app-{number}"), 1, 1))
        };
        tally.sample(pods(0));
        tally.sample(pods(MOST));
        assert_eq!(tally.sums.len(), MOST + 2);
        let none: Arc<str> = "".into();
        let cluster = Subject { by: By::Cluster, namespace: none.clone(), app: none };
        assert_eq!(tally.sums[&cluster].used.cpu, 2 * MOST as i64);
    }
}
