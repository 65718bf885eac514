//! Taking in what came of a step: from outcomes to facts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Finished, STEP_BACKOFF, Worker};
use crate::pod::facts::{ImageFact, Step};
use crate::pod::runtime::Life;
use crate::pod::steps::{Outcome, StepError};
use crate::pod::table::{ContainerEntry, ContainerRef, PodEntry};

const VOLUMES_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(120));
const SANDBOX_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A missing ConfigMap may come any moment.
const START_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// The kubelet's for pulls.
const PULL_BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// After the runtime itself was away.
const AWAY_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

impl Worker {
    /// Whether the runtime may have changed.
    pub(super) fn take(&mut self, key: String, finished: Finished) -> bool {
        let now = Timestamp::now();
        match finished {
            Finished::Status(result) => {
                self.busy.remove(&key);
                match *result {
                    Ok((written, pod)) => {
                        self.held.remove(&key);
                        self.written = Some(written);
                        self.adopt(Arc::new(pod));
                    }
                    Err(message) => {
                        tracing::debug!(pod = self.uid, message, "status not written");
                        let held = self.held.entry(key).or_default();
                        held.fail("status", message, now, STEP_BACKOFF);
                    }
                }
                false
            }
            Finished::Step(action, outcome) => {
                self.busy.remove(&key);
                self.handles.remove(&key);
                debug_assert_eq!(action.key(), key);
                self.note(&key, *outcome, now)
            }
        }
    }

    fn note(&mut self, key: &str, outcome: Outcome, now: Timestamp) -> bool {
        match outcome {
            Outcome::Volumes(Ok(mounts)) => {
                self.mounts = Some(mounts);
                self.facts.volumes = Step::Done;
                false
            }
            Outcome::Volumes(Err(error)) => {
                fail(&mut self.facts.volumes, error, now, VOLUMES_BACKOFF);
                false
            }
            Outcome::Sandbox(made) => {
                match made {
                    Ok(()) => self.facts.sandbox = Step::Done,
                    Err(error) => fail(&mut self.facts.sandbox, error, now, SANDBOX_BACKOFF),
                }
                true
            }
            Outcome::SandboxStopped(id, stopped) => {
                if self.hold(key, stopped, now) {
                    self.facts.stopped.insert(id);
                }
                true
            }
            Outcome::Image(container, pulled) => {
                let fact = match pulled {
                    Ok(present) => {
                        ImageFact::Ready { reference: present.reference, user: present.user }
                    }
                    Err(error) => {
                        let mut step = match self.facts.images.remove(&container) {
                            Some(ImageFact::Failed(failure)) => Step::Failed(failure),
                            _ => Step::Untried,
                        };
                        let backoff = if error.is_away { AWAY_BACKOFF } else { PULL_BACKOFF };
                        step.fail(error.reason, error.message, now, backoff);
                        match step {
                            Step::Failed(failure) => ImageFact::Failed(failure),
                            Step::Untried | Step::Done => return false,
                        }
                    }
                };
                self.facts.images.insert(container, fact);
                false
            }
            Outcome::Started(container, started) => {
                match started {
                    Ok((id, hooked)) => {
                        self.facts.starts.remove(&container);
                        if hooked {
                            self.facts.hooks.insert(id);
                        }
                    }
                    Err(error) => {
                        let step = self.facts.starts.entry(container).or_default();
                        fail(step, error, now, START_BACKOFF);
                    }
                }
                true
            }
            Outcome::Hooked(id) => {
                self.facts.hooks.remove(&id);
                true
            }
            Outcome::Resized(id, Ok(resources)) => {
                self.facts.resize_failures.remove(&id);
                self.facts.resources.insert(id, resources);
                self.held.remove(key);
                false
            }
            Outcome::Resized(id, Err(error)) => {
                self.facts.resize_failures.insert(id, error.message.clone());
                self.hold(key, Err(error), now);
                false
            }
            Outcome::Settled(settled) => {
                self.facts.settled = self.hold(key, settled, now);
                false
            }
            Outcome::Finished(finished) => {
                self.facts.finished = self.hold(key, finished, now);
                true
            }
            Outcome::Done(done) => {
                self.hold(key, done, now);
                true
            }
        }
    }

    /// Notes whether a step worked; a failed one waits before it is tried again.
    fn hold(&mut self, key: &str, outcome: Result<(), StepError>, now: Timestamp) -> bool {
        match outcome {
            Ok(()) => {
                self.held.remove(key);
                true
            }
            Err(error) => {
                tracing::warn!(pod = self.uid, step = key, error = error.message, "step failed");
                fail(self.held.entry(key.to_owned()).or_default(), error, now, STEP_BACKOFF);
                false
            }
        }
    }

    /// Shows the pod to those who only look.
    pub(super) fn publish(&self) {
        let mut entry = PodEntry {
            pod: self.pod.clone(),
            sandbox_id: self.runtime.sandboxes.first().map(|sandbox| sandbox.id.clone()),
            pod_ip: self.runtime.address().map(|address| address.to_string()),
            containers: std::collections::BTreeMap::new(),
        };
        for record in &self.runtime.containers {
            let found = ContainerRef {
                id: record.id.clone(),
                attempt: record.attempt,
                running: record.life == Life::Running,
                ended: !matches!(record.life, Life::Created | Life::Running),
                started_at: record.started_at,
                log_path: record.log_path.clone().into(),
            };
            let shown: &mut ContainerEntry =
                entry.containers.entry(record.name.clone()).or_default();
            if shown.current.is_none() {
                shown.current = Some(found);
            } else if shown.previous.is_none() {
                shown.previous = Some(found);
            }
        }
        self.shared.table.put(&self.uid, entry);
    }
}

fn fail(step: &mut Step, error: StepError, now: Timestamp, backoff: (Duration, Duration)) {
    step.fail(error.reason, error.message, now, backoff);
}
