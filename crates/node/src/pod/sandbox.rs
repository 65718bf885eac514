//! A pod's sandbox as CRI wants it, and its hosts file.

use std::collections::HashMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::Pod;

use super::{dns, labels, security};
use crate::config::Config;
use crate::cri::v1;

/// Linux' bound on a host name.
const HOSTNAME_MOST: usize = 63;

/// The host name inside the pod and its domain, if it has one.
pub(crate) fn hostname(config: &Config, pod: &Pod) -> (String, Option<String>) {
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(name) = spec.hostname_override {
        return (name, None);
    }
    let name = spec.hostname.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let name: String = name.chars().take(HOSTNAME_MOST).collect();
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = spec
        .subdomain
        .filter(|subdomain| !subdomain.is_empty())
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{}", config.cluster_domain));
    match domain {
        Some(domain) if spec.set_hostname_as_fqdn == Some(true) => {
            (format!("{name}.{domain}"), Some(domain))
        }
        domain => (name, domain),
    }
}

/// The sandbox of attempt `attempt`; `cgroup_parent` as the runtime's cgroup driver wants it.
pub(crate) fn config(
    config: &Config,
    pod: &Pod,
    attempt: u32,
    cgroup_parent: &str,
    host_dns: &v1::DnsConfig,
) -> v1::PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let on_host = spec.host_network == Some(true);
    let sysctls: HashMap<String, String> = spec
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten())
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect();
    v1::PodSandboxConfig {
        hostname: if on_host { String::new() } else { hostname(config, pod).0 },
        log_directory: config.pod_logs_dir(&namespace, &name, &uid).display().to_string(),
        dns_config: Some(dns::of_pod(config, pod, host_dns)),
        port_mappings: if on_host { Vec::new() } else { host_ports(pod) },
        labels: labels::of_sandbox(&config.instance, &namespace, &name, &uid),
        annotations: HashMap::new(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(security::of_sandbox(pod)),
            sysctls,
            ..v1::LinuxPodSandboxConfig::default()
        }),
        metadata: Some(v1::PodSandboxMetadata { name, uid, namespace, attempt }),
        windows: None,
    }
}

fn host_ports(pod: &Pod) -> Vec<v1::PortMapping> {
    let spec = pod.spec.iter();
    let containers =
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            };
            Some(v1::PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port: port.host_port.filter(|port| *port > 0)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// The text of the pod's /etc/hosts.
pub(crate) fn hosts_file(config: &Config, pod: &Pod, ips: &[String]) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut text = if spec.host_network == Some(true) {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        let mut own = "127.0.0.1\tlocalhost\n\
                       ::1\tlocalhost ip6-localhost ip6-loopback\n\
                       fe00::\tip6-localnet\n\
                       fe00::1\tip6-allnodes\n\
                       fe00::2\tip6-allrouters\n"
            .to_owned();
        let (name, domain) = hostname(config, pod);
        for ip in ips {
            let full = domain.as_ref().filter(|_| !name.contains('.'));
            let full = full.map(|domain| format!("{name}.{domain}\t")).unwrap_or_default();
            writeln!(own, "{ip}\t{full}{name}").expect("a String takes everything");
        }
        own
    };
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        writeln!(text, "{}\t{names}", alias.ip).expect("a String takes everything");
    }
    text
}
