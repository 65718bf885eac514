//! Containers that are made in a pod to look into it: what they are, and how they come to be.
//!
//! # Source
//! Kubernetes' `ephemeralContainers` (stable since 1.25, on by default since 1.23); the names of
//! profiles are those of `kubectl debug` as far as they mean the same.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};

use super::TERM;

/// What the container may do beyond what any container may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Trace the processes that it sees (`SYS_PTRACE`).
    #[default]
    General,
    /// Besides, change the pod's network and capture its packets (`NET_ADMIN`, `NET_RAW`).
    Network,
    /// Nothing.
    Plain,
}

impl Profile {
    /// Of its word.
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "general" => Some(Self::General),
            "network" => Some(Self::Network),
            "plain" => Some(Self::Plain),
            _ => None,
        }
    }

    fn capabilities(self) -> &'static [&'static str] {
        match self {
            Self::General => &["SYS_PTRACE"],
            Self::Network => &["NET_ADMIN", "NET_RAW", "SYS_PTRACE"],
            Self::Plain => &[],
        }
    }
}

/// A container to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    /// Its image.
    pub image: String,
    /// What it may.
    pub profile: Profile,
}

impl Debug {
    /// A name that no container has.
    pub fn name() -> String {
        format!("debug-{:08x}", rand::random::<u32>())
    }

    /// The strategic merge patch of `pods/ephemeralcontainers` that adds it as `name`: it sees the
    /// processes of `target` unless that is empty, and runs `command`, or what its image says. It
    /// reads keys where there is a `terminal`.
    pub fn patch(&self, name: &str, target: &str, command: &[String], terminal: bool) -> Value {
        let mut container = json!({
            "name": name, "image": self.image, "stdin": terminal, "tty": terminal,
            "env": [{ "name": "TERM", "value": TERM }],
        });
        if !target.is_empty() {
            container["targetContainerName"] = json!(target);
        }
        if !command.is_empty() {
            container["command"] = json!(command);
        }
        let capabilities = self.profile.capabilities();
        if !capabilities.is_empty() {
            container["securityContext"] = json!({ "capabilities": { "add": capabilities } });
        }
        json!({ "spec": { "ephemeralContainers": [container] } })
    }
}

/// How far an ephemeral container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is being made.
    Coming,
    /// It runs.
    Running,
    /// It has ended with this code.
    Over(i32),
}

/// How far the ephemeral container `name` is.
///
/// # Errors
/// Why it will never start, in the node's words.
pub fn stage(pod: &Pod, name: &str) -> Result<Stage, String> {
    let statuses = pod.status.as_ref().and_then(|all| all.ephemeral_container_statuses.as_ref());
    let status = statuses.into_iter().flatten().find(|status| status.name == name);
    let Some(state) = status.and_then(|status: &ContainerStatus| status.state.as_ref()) else {
        return Ok(Stage::Coming);
    };
    if state.running.is_some() {
        return Ok(Stage::Running);
    }
    if let Some(over) = &state.terminated {
        return match over.reason.as_deref() {
            Some("ContainerCannotRun" | "StartError") => {
                let why = over.message.as_deref().unwrap_or("it cannot run");
                Err(format!("container {name}: {why}"))
            }
            _ => Ok(Stage::Over(over.exit_code)),
        };
    }
    let waiting = state.waiting.as_ref();
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some(reason)
            if reason.starts_with("Err")
                || reason.ends_with("Error")
                || reason.ends_with("BackOff")
                || reason == "InvalidImageName" =>
        {
            let why = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
            Err(format!("container {name}: {reason}: {why}"))
        }
        _ => Ok(Stage::Coming),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: &Value) -> Result<Stage, String> {
        let pod = json!({ "status": { "ephemeralContainerStatuses": [
            { "name": "debug-1", "image": "i", "imageID": "", "ready": false,
              "restartCount": 0, "state": state }] } });
        stage(&serde_json::from_value(pod).unwrap(), "debug-1")
    }

    #[test]
    fn how_far_a_container_is_its_status_says() {
        assert_eq!(stage(&Pod::default(), "debug-1"), Ok(Stage::Coming));
        assert_eq!(at(&json!({})), Ok(Stage::Coming));
        assert_eq!(at(&json!({ "waiting": { "reason": "ContainerCreating" } })), Ok(Stage::Coming));
        assert_eq!(at(&json!({ "running": {} })), Ok(Stage::Running));
        assert_eq!(at(&json!({ "terminated": { "exitCode": 3 } })), Ok(Stage::Over(3)));
    }

    #[test]
    fn a_container_that_never_starts_says_why() {
        for reason in ["ErrImagePull", "ImagePullBackOff", "CreateContainerError"] {
            let why = at(&json!({ "waiting": { "reason": reason, "message": "not found" } }));
            assert_eq!(why, Err(format!("container debug-1: {reason}: not found")));
        }
        let ended = json!({ "terminated":
            { "exitCode": 128, "reason": "StartError", "message": "no such file" } });
        assert_eq!(at(&ended), Err("container debug-1: no such file".to_owned()));
    }

    #[test]
    fn it_gets_what_its_profile_says_and_no_more() {
        let debug = |profile| Debug { image: "tools:1".into(), profile };
        let patch = debug(Profile::Plain).patch("debug-1", "", &[], false);
        let made = &patch["spec"]["ephemeralContainers"][0];
        assert_eq!((&made["tty"], &made["securityContext"]), (&json!(false), &Value::Null));
        assert_eq!((&made["command"], &made["targetContainerName"]), (&Value::Null, &Value::Null));
        let patch = debug(Profile::Network).patch("debug-1", "web", &["ss".to_owned()], true);
        let made = &patch["spec"]["ephemeralContainers"][0];
        assert_eq!(made["targetContainerName"], "web");
        let added = &made["securityContext"]["capabilities"]["add"];
        assert_eq!(*added, json!(["NET_ADMIN", "NET_RAW", "SYS_PTRACE"]));
    }
}
