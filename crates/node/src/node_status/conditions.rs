//! A node's conditions: what was observed, what it means, how it is merged with what was there.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use crate::Config;
use crate::machine::{self, Disk};

/// Below this the kernel begins to kill.
const LEAST_MEMORY_BYTES: u64 = 100 << 20;
/// A disk is short of room below a twentieth of its size, on large disks below this.
const LEAST_DISK_BYTES: u64 = 2 << 30;
const LEAST_DISK_PARTS: u64 = 20;
/// New processes fail at the limit; a tenth before it is time to stop taking pods.
const MOST_PIDS_PERCENT: u64 = 90;

/// The numbers that conditions are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    pub memory_available_bytes: u64,
    pub disk: Option<Disk>,
    /// Those that exist, and the most there can be.
    pub pids: (u64, u64),
}

/// How the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// Why the runtime cannot run pods.
    pub runtime: Result<(), String>,
    pub memory_short: bool,
    pub disk_short: bool,
    pub pids_short: bool,
}

impl Observed {
    pub fn read(config: &Config) -> Self {
        Self {
            memory_available_bytes: machine::memory_available(),
            disk: machine::disk(&config.data_dir),
            pids: machine::pids(),
        }
    }

    pub fn health(&self, runtime: Result<(), String>) -> Health {
        let (pids, most) = self.pids;
        Health {
            runtime,
            memory_short: self.memory_available_bytes < LEAST_MEMORY_BYTES,
            disk_short: self.disk.is_some_and(|disk| is_short(&disk)),
            pids_short: pids.saturating_mul(100) >= most.saturating_mul(MOST_PIDS_PERCENT),
        }
    }
}

fn is_short(disk: &Disk) -> bool {
    let least = (disk.total_bytes / LEAST_DISK_PARTS).min(LEAST_DISK_BYTES);
    let least_inodes = disk.total_inodes / (2 * LEAST_DISK_PARTS);
    disk.available_bytes < least || (disk.total_inodes > 0 && disk.free_inodes < least_inodes)
}

/// A condition without its times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct State {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

/// What `health` means in Kubernetes' words.
pub(super) fn states(health: &Health) -> Vec<State> {
    let pressure = |kind, short, (bad, bad_text), (good, good_text): (&'static str, &str)| {
        let (status, reason, message): (_, _, &str) =
            if short { ("True", bad, bad_text) } else { ("False", good, good_text) };
        State { kind, status, reason, message: message.to_owned() }
    };
    let (status, reason, message) = match &health.runtime {
        Ok(()) => ("True", "KubeletReady", "the node agent takes pods".to_owned()),
        Err(why) => ("False", "KubeletNotReady", why.clone()),
    };
    vec![
        pressure(
            "MemoryPressure",
            health.memory_short,
            ("KubeletHasInsufficientMemory", "less than 100 MiB of memory are available"),
            ("KubeletHasSufficientMemory", "the node has enough memory available"),
        ),
        pressure(
            "DiskPressure",
            health.disk_short,
            ("KubeletHasDiskPressure", "the disk of the data directory is nearly full"),
            ("KubeletHasNoDiskPressure", "the disk has room"),
        ),
        pressure(
            "PIDPressure",
            health.pids_short,
            ("KubeletHasInsufficientPID", "nearly all process ids are taken"),
            ("KubeletHasSufficientPID", "the node has enough process ids"),
        ),
        State { kind: "Ready", status, reason, message },
    ]
}

/// Whether `present` says already what `states` say.
pub(super) fn hold(present: &[NodeCondition], states: &[State]) -> bool {
    states.iter().all(|state| {
        present.iter().any(|condition| {
            condition.type_ == state.kind
                && condition.status == state.status
                && condition.reason.as_deref() == Some(state.reason)
        })
    })
}

/// `states` with their times, and the conditions of others as they were.
pub(super) fn merge(
    present: &[NodeCondition],
    states: &[State],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let others = present.iter().filter(|c| states.iter().all(|state| state.kind != c.type_));
    let ours = states.iter().map(|state| {
        let before = present.iter().find(|c| c.type_ == state.kind && c.status == state.status);
        let since = before.and_then(|condition| condition.last_transition_time.clone());
        NodeCondition {
            type_: state.kind.to_owned(),
            status: state.status.to_owned(),
            reason: Some(state.reason.to_owned()),
            message: Some(state.message.clone()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(since.unwrap_or(Time(now))),
        }
    });
    others.cloned().chain(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Observed {
        let size = 100 << 30;
        let disk = Disk {
            total_bytes: size,
            available_bytes: size,
            total_inodes: 1000,
            free_inodes: 1000,
        };
        Observed { memory_available_bytes: 4 << 30, disk: Some(disk), pids: (100, 32_768) }
    }

    #[test]
    fn pressure_comes_before_the_end() {
        let check = |change: fn(&mut Observed), expected: &str| {
            let mut observed = observed();
            change(&mut observed);
            let states = states(&observed.health(Ok(())));
            let bad: Vec<_> = states
                .iter()
                .filter(|state| (state.kind == "Ready") != (state.status == "True"))
                .map(|state| state.kind)
                .collect();
            assert_eq!(bad.join(" "), expected);
        };
        check(|_| {}, "");
        check(|o| o.memory_available_bytes = 99 << 20, "MemoryPressure");
        check(|o| o.disk.as_mut().expect("a disk").available_bytes = 1 << 30, "DiskPressure");
        check(|o| o.disk.as_mut().expect("a disk").free_inodes = 3, "DiskPressure");
        check(|o| o.pids = (30_000, 32_768), "PIDPressure");
    }

    #[test]
    fn transitions_are_dated_and_others_conditions_stay() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let other = NodeCondition { type_: "Custom".to_owned(), ..NodeCondition::default() };
        let ready = states(&observed().health(Ok(())));
        let first = merge(&[other], &ready, at(10));
        assert!(hold(&first, &ready));
        let second = merge(&first, &ready, at(20));
        assert_eq!(second.len(), 5);
        let times = |list: &[NodeCondition]| {
            let ready = list.iter().find(|c| c.type_ == "Ready").expect("Ready");
            let seconds = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_second());
            (seconds(&ready.last_transition_time), seconds(&ready.last_heartbeat_time))
        };
        assert_eq!(times(&second), (Some(10), Some(20)));
        let broken = states(&observed().health(Err("no network".to_owned())));
        assert!(!hold(&second, &broken));
        assert_eq!(times(&merge(&second, &broken, at(30))), (Some(30), Some(30)));
    }
}
