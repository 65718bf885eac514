//! The Pod Security Standards, check by check.
//!
//! Each check answers what it objects to as Kubernetes words it: a headline, and in parentheses
//! where. `minor` is the Kubernetes minor whose rules count: some checks came later.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Level;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that stay within a pod, and since which minor they are allowed.
const SYSCTLS: [(&str, u32); 10] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
];
const LATER_SYSCTLS: [(&str, u32); 2] = [("net.ipv4.tcp_rmem", 32), ("net.ipv4.tcp_wmem", 32)];
const SELINUX_TYPES: [&str; 4] = ["", "container_t", "container_init_t", "container_kvm_t"];
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Everything the level objects to, by headline.
pub(super) fn all(level: Level, minor: u32, meta: &Value, spec: &Value) -> Vec<String> {
    let mut said = Vec::new();
    if level == Level::Privileged {
        return said;
    }
    let pod = Pod { meta, spec, minor };
    let restricted = level == Level::Restricted;
    let windows = minor >= 25 && spec["os"]["name"] == "windows";
    if restricted && minor >= 8 && !windows {
        said.extend(pod.escalation());
    }
    said.extend(pod.apparmor());
    if restricted && minor >= 22 {
        if !windows {
            said.extend(pod.capabilities_restricted());
        }
    } else {
        said.extend(pod.capabilities());
    }
    said.extend(pod.namespaces());
    if !restricted {
        said.extend(pod.host_paths());
    }
    said.extend(pod.host_ports());
    if minor >= 34 {
        said.extend(pod.probe_hosts());
    }
    said.extend(pod.privileged());
    said.extend(pod.proc_mount());
    if restricted {
        said.extend(pod.volumes());
        said.extend(pod.non_root());
        if minor >= 23 {
            said.extend(pod.root_user());
        }
    }
    if restricted && minor >= 19 {
        if !windows {
            said.extend(pod.seccomp_restricted());
        }
    } else {
        said.extend(pod.seccomp());
    }
    said.extend(pod.selinux());
    said.extend(pod.sysctls());
    said.extend(pod.host_process());
    said
}

struct Pod<'a> {
    meta: &'a Value,
    spec: &'a Value,
    minor: u32,
}

fn name(container: &Value) -> String {
    format!("\"{}\"", container["name"].as_str().unwrap_or_default())
}

/// `container "a"`, `containers "a", "b"`.
fn named(names: &[String]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("container{plural} {}", names.join(", "))
}

fn quoted<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let all: BTreeSet<String> = all.into_iter().map(|one| format!("\"{one}\"")).collect();
    all.into_iter().collect::<Vec<_>>().join(", ")
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        LISTS.into_iter().filter_map(|list| spec[list].as_array()).flatten()
    }

    /// The names of those that a check objects to.
    fn those(&self, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        self.containers().filter(|one| bad(&one["securityContext"])).map(name).collect()
    }

    fn context(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    fn host_process(&self) -> Option<String> {
        let sets = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
        let mut who = Vec::new();
        if sets(self.context()) {
            who.push("pod".to_owned());
        }
        let names = self.those(sets);
        if !names.is_empty() {
            who.push(named(&names));
        }
        (!who.is_empty()).then(|| {
            let who = who.join(" and ");
            format!(
                "hostProcess ({who} must not set securityContext.windowsOptions.hostProcess=true)"
            )
        })
    }

    fn namespaces(&self) -> Option<String> {
        let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
            .iter()
            .filter(|field| self.spec[**field] == true)
            .map(|field| format!("{field}=true"))
            .collect();
        (!used.is_empty()).then(|| format!("host namespaces ({})", used.join(", ")))
    }

    fn privileged(&self) -> Option<String> {
        let names = self.those(|context| context["privileged"] == true);
        (!names.is_empty()).then(|| {
            format!("privileged ({} must not set securityContext.privileged=true)", named(&names))
        })
    }

    fn added(&self, allowed: &[&str]) -> Option<String> {
        let beyond = |context: &'a Value| {
            strings(&context["capabilities"]["add"]).filter(|one| !allowed.contains(one))
        };
        let names: Vec<String> = self
            .containers()
            .filter(|one| beyond(&one["securityContext"]).next().is_some())
            .map(name)
            .collect();
        let added = quoted(self.containers().flat_map(|one| beyond(&one["securityContext"])));
        (!names.is_empty()).then(|| {
            format!(
                "{} must not include {added} in securityContext.capabilities.add",
                named(&names)
            )
        })
    }

    fn capabilities(&self) -> Option<String> {
        self.added(&CAPABILITIES).map(|said| format!("non-default capabilities ({said})"))
    }

    fn capabilities_restricted(&self) -> Option<String> {
        let keeps = self
            .those(|context| !strings(&context["capabilities"]["drop"]).any(|one| one == "ALL"));
        let drop = (!keeps.is_empty()).then(|| {
            format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps))
        });
        let said: Vec<String> = drop.into_iter().chain(self.added(&["NET_BIND_SERVICE"])).collect();
        (!said.is_empty()).then(|| format!("unrestricted capabilities ({})", said.join("; ")))
    }

    fn volume_names(&self, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        let all = self.spec["volumes"].as_array().into_iter().flatten();
        all.filter(|volume| bad(volume)).map(name).collect()
    }

    fn host_paths(&self) -> Option<String> {
        let names = self.volume_names(|volume| !volume["hostPath"].is_null());
        let plural = if names.len() == 1 { "" } else { "s" };
        (!names.is_empty())
            .then(|| format!("hostPath volumes (volume{plural} {})", names.join(", ")))
    }

    fn volumes(&self) -> Option<String> {
        let kind = |volume: &'a Value| {
            let fields = volume.as_object().into_iter().flatten();
            let mut kinds = fields.filter(|(key, value)| *key != "name" && !value.is_null());
            kinds.next().map(|(key, _)| key.as_str())
        };
        let all = self.spec["volumes"].as_array().into_iter().flatten();
        let bad: Vec<(&Value, &str)> = all
            .filter_map(|volume| Some((volume, kind(volume)?)))
            .filter(|(_, kind)| !VOLUMES.contains(kind))
            .collect();
        let names: Vec<String> = bad.iter().map(|(volume, _)| name(volume)).collect();
        let kinds: BTreeSet<&str> = bad.iter().map(|(_, kind)| *kind).collect();
        let (s, uses) = if names.len() == 1 { ("", "uses") } else { ("s", "use") };
        let types = if kinds.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| {
            format!(
                "restricted volume types (volume{s} {} {uses} restricted volume type{types} {})",
                names.join(", "),
                quoted(kinds)
            )
        })
    }

    fn host_ports(&self) -> Option<String> {
        let ports = |container: &Value| -> BTreeSet<i64> {
            let all = container["ports"].as_array().into_iter().flatten();
            all.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect()
        };
        let users: Vec<&Value> =
            self.containers().filter(|container| !ports(container).is_empty()).collect();
        let names: Vec<String> = users.iter().map(|one| name(one)).collect();
        let used: BTreeSet<i64> = users.iter().flat_map(|one| ports(one)).collect();
        let used: Vec<String> = used.iter().map(i64::to_string).collect();
        let uses = if names.len() == 1 { "uses" } else { "use" };
        let plural = if used.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| {
            format!("hostPort ({} {uses} hostPort{plural} {})", named(&names), used.join(", "))
        })
    }

    fn probe_hosts(&self) -> Option<String> {
        let handlers = |container: &'a Value| {
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
            let hooks = ["postStart", "preStop"];
            probes
                .into_iter()
                .map(|probe| &container[probe])
                .chain(hooks.into_iter().map(|hook| &container["lifecycle"][hook]))
                .flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]])
                .filter_map(Value::as_str)
                .filter(|host| !host.is_empty())
        };
        let names: Vec<String> =
            self.containers().filter(|one| handlers(one).next().is_some()).map(name).collect();
        let hosts = quoted(self.containers().flat_map(handlers));
        (!names.is_empty()).then(|| {
            format!("probe or lifecycle host ({} must not set host {hosts})", named(&names))
        })
    }

    fn apparmor(&self) -> Option<String> {
        let bad = |context: &Value| {
            let kind = context["appArmorProfile"]["type"].as_str();
            !matches!(kind, None | Some("RuntimeDefault" | "Localhost"))
        };
        let mut said = Vec::new();
        if bad(self.context()) {
            let kind = &self.context()["appArmorProfile"]["type"];
            said.push(format!("pod must not set AppArmor profile type to {kind}"));
        }
        let names = self.those(bad);
        if !names.is_empty() {
            said.push(format!(
                "{} must not set AppArmor profile type to \"Unconfined\"",
                named(&names)
            ));
        }
        let annotations = self.meta["annotations"].as_object().into_iter().flatten();
        for (key, value) in annotations.filter(|(key, _)| key.starts_with(APPARMOR)) {
            let value = value.as_str().unwrap_or_default();
            if !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/") {
                said.push(format!("annotation {key}=\"{value}\""));
            }
        }
        let plural = if said.len() == 1 { "" } else { "s" };
        (!said.is_empty())
            .then(|| format!("forbidden AppArmor profile{plural} ({})", said.join(", ")))
    }

    fn selinux(&self) -> Option<String> {
        let bad = |context: &Value| {
            let options = &context["seLinuxOptions"];
            let text = |field: &str| options[field].as_str().unwrap_or_default().to_owned();
            let kind = text("type");
            let newer = self.minor >= 31 && kind == "container_engine_t";
            let known = newer || SELINUX_TYPES.contains(&kind.as_str());
            !known || !text("user").is_empty() || !text("role").is_empty()
        };
        let mut who = Vec::new();
        if bad(self.context()) {
            who.push("pod".to_owned());
        }
        let names = self.those(bad);
        if !names.is_empty() {
            who.push(named(&names));
        }
        (!who.is_empty()).then(|| {
            format!(
                "seLinuxOptions ({} set forbidden securityContext.seLinuxOptions)",
                who.join(" and ")
            )
        })
    }

    fn proc_mount(&self) -> Option<String> {
        let bad =
            |context: &Value| !matches!(context["procMount"].as_str(), None | Some("" | "Default"));
        let names = self.those(bad);
        (!names.is_empty()).then(|| {
            format!(
                "procMount ({} must not set securityContext.procMount to \"Unmasked\")",
                named(&names)
            )
        })
    }

    fn seccomp(&self) -> Option<String> {
        let bad = |context: &Value| context["seccompProfile"]["type"] == "Unconfined";
        let mut who = Vec::new();
        if bad(self.context()) {
            who.push("pod".to_owned());
        }
        let names = self.those(bad);
        if !names.is_empty() {
            who.push(named(&names));
        }
        (!who.is_empty()).then(|| {
            format!(
                "seccompProfile ({} must not set securityContext.seccompProfile.type to \
                 \"Unconfined\")",
                who.join(" and ")
            )
        })
    }

    fn seccomp_restricted(&self) -> Option<String> {
        let kind = |context: &'a Value| context["seccompProfile"]["type"].as_str();
        let good = |kind: Option<&str>| matches!(kind, Some("RuntimeDefault" | "Localhost"));
        let (pod, mut wrong) = (kind(self.context()), Vec::new());
        if pod.is_some() && !good(pod) {
            wrong.push("pod".to_owned());
        }
        let explicit: Vec<String> = self
            .containers()
            .filter(|one| kind(&one["securityContext"]).is_some_and(|kind| !good(Some(kind))))
            .map(name)
            .collect();
        if !explicit.is_empty() {
            wrong.push(named(&explicit));
        }
        let place = "securityContext.seccompProfile.type to";
        if !wrong.is_empty() {
            let who = wrong.join(" and ");
            return Some(format!("seccompProfile ({who} must not set {place} \"Unconfined\")"));
        }
        let unset: Vec<String> = self
            .containers()
            .filter(|one| kind(&one["securityContext"]).is_none() && !good(pod))
            .map(name)
            .collect();
        (!unset.is_empty()).then(|| {
            let who = named(&unset);
            format!(
                "seccompProfile (pod or {who} must set {place} \"RuntimeDefault\" or \"Localhost\")"
            )
        })
    }

    fn sysctls(&self) -> Option<String> {
        let allowed = |name: &str| {
            let mut all = SYSCTLS.iter().chain(&LATER_SYSCTLS);
            all.any(|(own, since)| *own == name && self.minor >= *since)
        };
        let all = self.context()["sysctls"].as_array().into_iter().flatten();
        let bad: BTreeSet<&str> =
            all.filter_map(|one| one["name"].as_str()).filter(|name| !allowed(name)).collect();
        let bad: Vec<&str> = bad.into_iter().collect();
        (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
    }

    fn escalation(&self) -> Option<String> {
        let names = self.those(|context| context["allowPrivilegeEscalation"] != false);
        (!names.is_empty()).then(|| {
            format!(
                "allowPrivilegeEscalation != false ({} must set \
                 securityContext.allowPrivilegeEscalation=false)",
                named(&names)
            )
        })
    }

    /// From 1.35 on root within a user namespace of its own is nobody outside.
    fn own_users(&self) -> bool {
        self.minor >= 35 && self.spec["hostUsers"] == false
    }

    fn non_root(&self) -> Option<String> {
        if self.own_users() {
            return None;
        }
        let pod = &self.context()["runAsNonRoot"];
        let mut wrong = Vec::new();
        if *pod == false {
            wrong.push("pod".to_owned());
        }
        let explicit = self.those(|context| context["runAsNonRoot"] == false);
        if !explicit.is_empty() {
            wrong.push(named(&explicit));
        }
        if !wrong.is_empty() {
            let who = wrong.join(" and ");
            return Some(format!(
                "runAsNonRoot != true ({who} must not set securityContext.runAsNonRoot=false)"
            ));
        }
        let unset = self.those(|context| context["runAsNonRoot"] != true && *pod != true);
        (!unset.is_empty()).then(|| {
            let who = named(&unset);
            format!(
                "runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
            )
        })
    }

    fn root_user(&self) -> Option<String> {
        if self.own_users() {
            return None;
        }
        let mut who = Vec::new();
        if self.context()["runAsUser"] == 0 {
            who.push("pod".to_owned());
        }
        let names = self.those(|context| context["runAsUser"] == 0);
        if !names.is_empty() {
            who.push(named(&names));
        }
        (!who.is_empty())
            .then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(level: Level, spec: Value, expected: &[&str]) {
        let said = all(level, u32::MAX, &json!({}), &spec);
        let heads: Vec<&str> = said.iter().filter_map(|one| one.split(" (").next()).collect();
        assert_eq!(heads, expected, "{spec}");
    }

    #[test]
    fn a_plain_pod_is_told_all_that_restricted_wants() {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        check(Level::Baseline, spec.clone(), &[]);
        assert_eq!(
            all(Level::Restricted, u32::MAX, &json!({}), &spec).join(", "),
            "allowPrivilegeEscalation != false (container \"c\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
             \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod \
             or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or \
             container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\")"
        );
    }

    #[test]
    fn a_careful_pod_passes() {
        let spec = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            }}],
        });
        check(Level::Restricted, spec, &[]);
    }

    #[test]
    fn baseline_objects_to_each_way_to_the_node() {
        let of =
            |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
        let pod = |context: Value| json!({"securityContext": context, "containers": []});
        let base = |spec: Value, head: &str| check(Level::Baseline, spec, &[head]);
        base(json!({"hostNetwork": true, "hostPID": true}), "host namespaces");
        base(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes");
        base(json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}), "hostPort");
        base(of(json!({"privileged": true})), "privileged");
        base(of(json!({"capabilities": {"add": ["NET_ADMIN"]}})), "non-default capabilities");
        base(of(json!({"procMount": "Unmasked"})), "procMount");
        base(of(json!({"windowsOptions": {"hostProcess": true}})), "hostProcess");
        base(of(json!({"seLinuxOptions": {"type": "spc_t"}})), "seLinuxOptions");
        base(of(json!({"appArmorProfile": {"type": "Unconfined"}})), "forbidden AppArmor profile");
        base(pod(json!({"seccompProfile": {"type": "Unconfined"}})), "seccompProfile");
        base(pod(json!({"sysctls": [{"name": "kernel.msgmax"}]})), "forbidden sysctls");
        let probe = json!({"httpGet": {"host": "10.0.0.1"}});
        let spec = json!({"containers": [{"name": "c", "livenessProbe": probe}]});
        base(spec.clone(), "probe or lifecycle host");
        assert!(all(Level::Baseline, 33, &json!({}), &spec).is_empty(), "came with 1.34");
        check(Level::Privileged, json!({"hostNetwork": true}), &[]);
    }
}
