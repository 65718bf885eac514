//! Who a container runs as and what it may do.

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use crate::cri::v1;

/// What of /proc and /sys a container does not see, unless it asks for `procMount: Unmasked`.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What of /proc a container may only read.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user an image wants to run as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// A number, when the image names one.
    pub uid: Option<i64>,
    /// A name that only the image's own passwd file can resolve.
    pub name: String,
}

/// A container that asks not to be root and would be, or might be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootError {
    #[error("container's runAsUser breaks non-root policy (container: {0})")]
    Asked(String),
    #[error("container has runAsNonRoot and image will run as root (container: {0})")]
    Image(String),
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is \
         non-root (container: {container})"
    )]
    Unknown { container: String, user: String },
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default()
}

/// Whether any container of the pod is privileged: its sandbox must be, too.
pub(crate) fn any_privileged(spec: &PodSpec) -> bool {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.filter_map(|container| container.security_context.as_ref())
        .any(|context| context.privileged == Some(true))
}

/// The namespaces of the pod that are the machine's, shared, or each container's own.
pub(crate) fn namespaces(spec: &PodSpec) -> v1::NamespaceOption {
    let mode = |host: Option<bool>, other: v1::NamespaceMode| {
        if host == Some(true) { v1::NamespaceMode::Node as i32 } else { other as i32 }
    };
    let own_pid = if spec.share_process_namespace == Some(true) {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    v1::NamespaceOption {
        network: mode(spec.host_network, v1::NamespaceMode::Pod),
        pid: mode(spec.host_pid, own_pid),
        ipc: mode(spec.host_ipc, v1::NamespaceMode::Pod),
        ..v1::NamespaceOption::default()
    }
}

fn seccomp(profile: Option<&SeccompProfile>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, path) = match profile {
        Some(profile) if profile.type_ == "RuntimeDefault" => (ProfileType::RuntimeDefault, None),
        Some(profile) if profile.type_ == "Localhost" => {
            (ProfileType::Localhost, profile.localhost_profile.clone())
        }
        // Kubernetes: nothing said means no filter.
        _ => (ProfileType::Unconfined, None),
    };
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: path.unwrap_or_default() }
}

fn groups(pod: &PodSecurityContext) -> Vec<i64> {
    let mut groups = pod.supplemental_groups.clone().unwrap_or_default();
    groups.extend(pod.fs_group.filter(|group| !groups.contains(group)));
    groups
}

fn groups_policy(pod: &PodSecurityContext) -> i32 {
    let strict = pod.supplemental_groups_policy.as_deref() == Some("Strict");
    let policy = if strict {
        v1::SupplementalGroupsPolicy::Strict
    } else {
        v1::SupplementalGroupsPolicy::Merge
    };
    policy as i32
}

/// The sandbox's part.
pub(crate) fn of_sandbox(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(&spec)),
        run_as_user: context.run_as_user.map(|value| v1::Int64Value { value }),
        run_as_group: context
            .run_as_user
            .and(context.run_as_group)
            .map(|value| v1::Int64Value { value }),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged: any_privileged(&spec),
        seccomp: Some(seccomp(context.seccomp_profile.as_ref())),
        ..v1::LinuxSandboxSecurityContext::default()
    }
}

/// The container's part: its own words first, then the pod's, then the image's.
///
/// # Errors
/// When it must not be root and would be, or that cannot be told.
pub(crate) fn of_container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
) -> Result<v1::LinuxContainerSecurityContext, RootError> {
    let outer = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let user = own.run_as_user.or(outer.run_as_user);
    if own.run_as_non_root.or(outer.run_as_non_root) == Some(true) {
        refuse_root(&container.name, user, image)?;
    }
    let by_name = user.is_none() && image.uid.is_none() && !image.name.is_empty();
    let uid = user.or(image.uid).filter(|_| !by_name);
    let privileged = own.privileged == Some(true);
    let masked = !privileged && own.proc_mount.as_deref() != Some("Unmasked");
    let paths = |paths: &[&str]| {
        if masked { paths.iter().map(|path| (*path).to_owned()).collect() } else { Vec::new() }
    };
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: capabilities(&own),
        privileged,
        namespace_options: Some(namespaces(&spec)),
        run_as_user: uid.map(|value| v1::Int64Value { value }),
        run_as_group: own
            .run_as_group
            .or(outer.run_as_group)
            // CRI takes a group only beside a user; without one the image's root is meant.
            .filter(|_| uid.is_some() || by_name)
            .map(|value| v1::Int64Value { value }),
        run_as_username: if by_name { image.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&outer),
        supplemental_groups_policy: groups_policy(&outer),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(outer.seccomp_profile.as_ref()))),
        ..v1::LinuxContainerSecurityContext::default()
    })
}

fn refuse_root(container: &str, user: Option<i64>, image: &ImageUser) -> Result<(), RootError> {
    match (user, image.uid) {
        (Some(0), _) => Err(RootError::Asked(container.to_owned())),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(RootError::Image(container.to_owned())),
        (None, Some(_)) => Ok(()),
        (None, None) if image.name.is_empty() => Err(RootError::Image(container.to_owned())),
        (None, None) => {
            Err(RootError::Unknown { container: container.to_owned(), user: image.name.clone() })
        }
    }
}

fn capabilities(own: &SecurityContext) -> Option<v1::Capability> {
    own.capabilities.as_ref().map(|wanted| v1::Capability {
        add_capabilities: wanted.add.clone().unwrap_or_default(),
        drop_capabilities: wanted.drop.clone().unwrap_or_default(),
        ..v1::Capability::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_must_not_be_root_is_refused_when_it_would_be() {
        let named = |name: &str| ImageUser { uid: None, name: name.to_owned() };
        let numbered = |uid| ImageUser { uid: Some(uid), name: String::new() };
        for (user, image, allowed) in [
            (Some(0), numbered(7), false),
            (Some(7), numbered(0), true),
            (None, numbered(0), false),
            (None, numbered(7), true),
            (None, named(""), false),
            (None, named("www"), false),
        ] {
            let refused = refuse_root("c", user, &image).is_err();
            assert_eq!(refused, !allowed, "user {user:?}, image {image:?}");
        }
    }

    #[test]
    fn nothing_said_about_seccomp_is_unconfined() {
        use v1::security_profile::ProfileType;
        assert_eq!(seccomp(None).profile_type, ProfileType::Unconfined as i32);
        let asked = SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None };
        assert_eq!(seccomp(Some(&asked)).profile_type, ProfileType::RuntimeDefault as i32);
    }
}
