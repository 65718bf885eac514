//! One of several processes works; the others wait for its Lease to run out.
//!
//! Wall clocks are never compared: a Lease is out when it has not changed for its duration, by this
//! process's own monotonic clock. A holder stops deciding and binding well before another could take
//! over, by the same clock, counted from before the renewal was sent.
//!
//! Source: leader election of Kubernetes' client-go.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a Lease holds.
const HOLDS: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops working.
const WORKS: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const RETRY: Duration = Duration::from_secs(2);
/// No call takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Whether this process is the one that works.
#[derive(Clone)]
pub struct Leadership {
    until: Arc<Mutex<Option<Instant>>>,
    changed: Arc<Notify>,
    always: bool,
}

impl Leadership {
    /// There is no other.
    pub fn alone() -> Self {
        Self { until: Arc::default(), changed: Arc::default(), always: true }
    }

    /// Not yet, until a Lease is held; `changed` is told then.
    pub fn contested(changed: Arc<Notify>) -> Self {
        Self { until: Arc::default(), changed, always: false }
    }

    /// Whether this process may decide and bind now.
    pub fn holds(&self) -> bool {
        let until = *self.until.lock().expect("no holder of the lock panics");
        self.always || until.is_some_and(|until| Instant::now() < until)
    }

    /// Resolves when this process may work.
    pub async fn held(&self) {
        while !self.holds() {
            self.changed.notified().await;
        }
    }

    /// Resolves when this process, which might, may work no more.
    pub async fn lost(&self) {
        if self.always {
            return std::future::pending().await;
        }
        loop {
            let until = *self.until.lock().expect("no holder of the lock panics");
            match until {
                Some(until) if Instant::now() < until => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }

    fn set(&self, until: Option<Instant>) {
        let before = self.holds();
        *self.until.lock().expect("no holder of the lock panics") = until;
        if self.holds() != before {
            tracing::info!(leads = !before, "leadership");
            self.changed.notify_one();
        }
    }
}

/// What was seen of the Lease, and when by our own clock.
struct Seen {
    version: Option<String>,
    at: Instant,
}

/// Takes and keeps the Lease `name` for `identity` until dropped.
pub async fn elect(
    client: Client,
    namespace: String,
    name: String,
    identity: String,
    leadership: Leadership,
) {
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let mut seen = Seen { version: None, at: Instant::now() };
    loop {
        let begun = Instant::now();
        match tokio::time::timeout(CALL_LIMIT, turn(&leases, &name, &identity, &mut seen)).await {
            Ok(Ok(true)) => leadership.set(Some(begun + WORKS)),
            Ok(Ok(false)) => leadership.set(None),
            // Whoever held it goes on until it is out.
            Ok(Err(error)) => tracing::debug!(%error, "lease"),
            Err(_) => tracing::debug!("lease: no answer"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Renews, takes or looks at the Lease; whether it is ours.
async fn turn(
    leases: &Api<Lease>,
    name: &str,
    identity: &str,
    seen: &mut Seen,
) -> kube::Result<bool> {
    let Some(mut lease) = leases.get_opt(name).await? else {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: Some(held(LeaseSpec::default(), identity)),
        };
        return won(leases.create(&PostParams::default(), &lease).await);
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder != identity && !holder.is_empty() {
        if seen.version != lease.metadata.resource_version {
            *seen = Seen { version: lease.metadata.resource_version.clone(), at: Instant::now() };
            return Ok(false);
        }
        let stated = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        if seen.at.elapsed() < stated.map_or(HOLDS, Duration::from_secs) {
            return Ok(false);
        }
    }
    lease.spec = Some(held(spec, identity));
    // The resource version goes with it: of two that try, one is refused.
    won(leases.replace(name, &PostParams::default(), &lease).await)
}

fn won(result: kube::Result<Lease>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn held(mut spec: LeaseSpec, identity: &str) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    if spec.holder_identity.as_deref() != Some(identity) {
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count + 1));
    }
    spec.holder_identity = Some(identity.to_owned());
    spec.lease_duration_seconds = Some(HOLDS.as_secs() as i32);
    spec.renew_time = Some(now);
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_holder_stops_before_another_could_begin_whatever_wall_clocks_say() {
        let leadership = Leadership::contested(Arc::default());
        assert!(!leadership.holds());
        leadership.set(Some(Instant::now() + WORKS));
        assert!(leadership.holds());
        // Not renewed: the process was stopped, or the server was not reached.
        tokio::time::advance(WORKS).await;
        assert!(!leadership.holds());
        assert!(WORKS < HOLDS);
        leadership.lost().await;
        // What is written for people may be of any time; what is compared is not in it.
        let old = LeaseSpec {
            holder_identity: Some("other".into()),
            lease_transitions: Some(4),
            renew_time: Some(MicroTime(Timestamp::MIN)),
            ..LeaseSpec::default()
        };
        let taken = held(old, "own");
        assert_eq!(taken.lease_transitions, Some(5));
        assert_eq!(held(taken.clone(), "own").acquire_time, taken.acquire_time);
    }
}
