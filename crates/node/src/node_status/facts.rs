//! What a Node object says of its machine.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Config;
use crate::cri::v1::Image;
use crate::machine::{self, Amounts};

/// The version of Kubernetes whose API this node speaks.
const KUBELET_VERSION: &str = "v1.36.0-berth";
/// As many as Kubernetes lists: the largest count for the scheduler.
const IMAGES: usize = 50;

/// What does not change while the process lives.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    machine_id: String,
    boot_id: String,
    kernel: String,
    os_image: String,
    /// Name and version of the runtime; filled in when it has answered.
    pub runtime: String,
}

impl Facts {
    pub fn read() -> Self {
        let kernel = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        Self {
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel,
            os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
            runtime: "containerd://unknown".to_owned(),
        }
    }
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn os_image(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |name| name.trim_matches('"')).to_owned()
}

/// Go's name of this processor, which is what images and selectors use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What a node is labelled by its own agent.
pub(crate) fn labels(name: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("kubernetes.io/hostname", name.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", architecture().to_owned()),
        ("node.kubernetes.io/instance-type", "berth".to_owned()),
        ("node-role.kubernetes.io/control-plane", String::new()),
    ])
}

/// Where the provisioner finds room on this node.
pub(super) fn annotations(config: &Config) -> BTreeMap<&'static str, String> {
    BTreeMap::from([("berth.dev/volumes-dir", config.volumes_dir().display().to_string())])
}

/// The status without its conditions.
pub(super) fn status(config: &Config, facts: &Facts, images: &[Image]) -> Value {
    json!({
        "capacity": amounts(&machine::capacity(config)),
        "allocatable": amounts(&machine::allocatable(config)),
        "addresses": [
            { "type": "InternalIP", "address": config.address.to_string() },
            { "type": "Hostname", "address": config.name },
        ],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": config.kubelet_port } },
        "nodeInfo": {
            "machineID": facts.machine_id,
            "systemUUID": facts.machine_id,
            "bootID": facts.boot_id,
            "kernelVersion": facts.kernel,
            "osImage": facts.os_image,
            "containerRuntimeVersion": facts.runtime,
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
        "images": listed(images),
    })
}

fn amounts(amounts: &Amounts) -> Value {
    let cpu = match amounts.cpu_milli % 1000 {
        0 => (amounts.cpu_milli / 1000).to_string(),
        _ => format!("{}m", amounts.cpu_milli),
    };
    json!({
        "cpu": cpu,
        "memory": format!("{}Ki", amounts.memory_bytes / 1024),
        "ephemeral-storage": format!("{}Ki", amounts.disk_bytes / 1024),
        "pods": amounts.pods.to_string(),
    })
}

fn listed(images: &[Image]) -> Vec<Value> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images
        .into_iter()
        .take(IMAGES)
        .map(|image| {
            let mut names: Vec<&String> =
                image.repo_digests.iter().chain(&image.repo_tags).collect();
            names.sort();
            json!({ "names": names, "sizeBytes": image.size })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_that_the_api_understands() {
        let config = crate::sample::config(std::path::Path::new("/"));
        let image = Image { id: "i".to_owned(), size: 5, ..Image::default() };
        let status = status(&config, &Facts::read(), &[image]);
        let read: k8s_openapi::api::core::v1::NodeStatus =
            serde_json::from_value(status).expect("a NodeStatus");
        let capacity = read.capacity.expect("capacity");
        assert_eq!(capacity["pods"].0, "110");
        assert!(crate::quantity::bytes(&capacity["memory"]) > 0);
        assert_eq!(read.images.expect("images").len(), 1);
    }

    #[test]
    fn the_systems_name_is_found() {
        assert_eq!(os_image("ID=debian\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(os_image(""), "Linux");
    }
}
