//! What a pod's resolv.conf says: the API's DNS policies.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use crate::config::Config;
use crate::cri::v1;

/// glibc reads no more servers than this.
const SERVERS_MOST: usize = 3;
/// Kubernetes' bound on search domains.
const SEARCHES_MOST: usize = 32;

/// The machine's own resolv.conf, for `Default` and behind the cluster's search domains.
pub(crate) fn of_host() -> v1::DnsConfig {
    let own = parse(&read("/etc/resolv.conf"));
    // A stub on loopback is no use inside a pod; systemd keeps the real servers beside it.
    let stub = !own.servers.is_empty() && own.servers.iter().all(|s| s.starts_with("127."));
    let real = "/run/systemd/resolve/resolv.conf";
    if stub && Path::new(real).exists() { parse(&read(real)) } else { own }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn parse(text: &str) -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    config
}

/// The resolver of `pod`.
pub(crate) fn of_pod(config: &Config, pod: &Pod, host: &v1::DnsConfig) -> v1::DnsConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let on_host = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !on_host);
    let mut dns = match policy {
        "None" => v1::DnsConfig::default(),
        _ if cluster => of_cluster(config, pod, host),
        _ => host.clone(),
    };
    if let Some(own) = &spec.dns_config {
        extend(&mut dns.servers, own.nameservers.iter().flatten());
        extend(&mut dns.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|have| have.split(':').next() != Some(name));
            dns.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    dns.servers.truncate(SERVERS_MOST);
    dns.searches.truncate(SEARCHES_MOST);
    dns
}

fn of_cluster(config: &Config, pod: &Pod, host: &v1::DnsConfig) -> v1::DnsConfig {
    let domain = &config.cluster_domain;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut searches =
        vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    extend(&mut searches, host.searches.iter());
    v1::DnsConfig {
        servers: vec![config.cluster_dns.to_string()],
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn extend<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_search_line_of_resolv_conf_counts() {
        let parsed =
            parse("# x\nnameserver 1.1.1.1\nsearch a b\nsearch c\noptions ndots:2 rotate\n");
        assert_eq!(parsed.servers, ["1.1.1.1"]);
        assert_eq!(parsed.searches, ["c"]);
        assert_eq!(parsed.options, ["ndots:2", "rotate"]);
    }
}
