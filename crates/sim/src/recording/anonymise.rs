//! A recording without anybody's names, which packs the same.
//!
//! Labels, taints and resources of Kubernetes itself keep their keys (`kubernetes.io/hostname`,
//! `topology.kubernetes.io/zone`): default rules name them. Their values go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use super::Recording;

impl Recording {
    /// Replaces every name, label and owner by a number; the same word by the same number.
    ///
    /// Sizes, times, models and who refers to whom stay: they are what a rehearsal needs. So do
    /// numbers that are the values of labels which some pod compares as numbers.
    #[must_use]
    pub fn anonymised(mut self) -> Self {
        let mut words = Words::default();
        self.pods.iter().filter_map(|pod| pod.spec.as_ref()).for_each(|spec| words.learn(spec));
        self.source = "anonymised".to_owned();
        for node in &mut self.nodes {
            node.name = words.of("node", &node.name);
            node.labels = words.labels(&node.labels);
            node.taints.iter_mut().for_each(|taint| *taint = words.taint(taint));
            let resources = std::mem::take(&mut node.resources).into_iter();
            node.resources = resources.map(|(name, has)| (words.resource(&name), has)).collect();
        }
        for pod in &mut self.pods {
            pod.name = words.spaced("pod", &pod.name);
            pod.node = pod.node.as_ref().map(|node| words.of("node", node));
            pod.owner = pod.owner.as_ref().map(|owner| words.of("owner", owner));
            pod.labels = words.labels(&pod.labels);
            pod.like = words.labels(&pod.like);
            pod.node_selector = words.labels(&pod.node_selector);
            pod.tolerations.iter_mut().for_each(|taint| *taint = words.taint(taint));
            pod.spec.iter_mut().for_each(|spec| words.hide(spec));
        }
        for budget in &mut self.budgets {
            budget.name = words.spaced("budget", &budget.name);
            budget.selector = words.labels(&budget.selector);
            budget.expressions.iter_mut().for_each(|each| words.requirement(each, false));
        }
        for used in &mut self.uses {
            used.pod = words.spaced("pod", &used.pod);
        }
        self
    }
}

#[derive(Default)]
struct Words {
    numbers: HashMap<(&'static str, String), usize>,
    counts: HashMap<&'static str, usize>,
    /// Keys of labels that are compared as numbers.
    compared: BTreeSet<String>,
}

/// Whether a key is one of Kubernetes' own.
fn is_kubernetes(key: &str) -> bool {
    key.split_once('/')
        .is_some_and(|(domain, _)| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"))
}

impl Words {
    fn of(&mut self, kind: &'static str, word: &str) -> String {
        format!("{kind}-{}", self.number(kind, word))
    }

    fn number(&mut self, kind: &'static str, word: &str) -> usize {
        let counts = &mut self.counts;
        *self.numbers.entry((kind, word.to_owned())).or_insert_with(|| {
            let count = counts.entry(kind).or_default();
            *count += 1;
            *count
        })
    }

    /// A name within a namespace, if it has one.
    fn spaced(&mut self, kind: &'static str, name: &str) -> String {
        let own = self.of(kind, name);
        match name.split_once('/') {
            Some((namespace, _)) => format!("{}/{own}", self.of("namespace", namespace)),
            None => own,
        }
    }

    fn key(&mut self, key: &str) -> String {
        if is_kubernetes(key) { key.to_owned() } else { self.of("key", key) }
    }

    fn value(&mut self, key: &str, value: &str) -> String {
        let compared = self.compared.contains(key) && value.parse::<i64>().is_ok();
        if value.is_empty() || compared {
            return value.to_owned();
        }
        self.of("value", value)
    }

    /// An address of one machine; those that mean any, or itself, stay.
    fn address(&mut self, address: &str) -> String {
        match address.parse::<IpAddr>() {
            Ok(address) if !address.is_unspecified() && !address.is_loopback() => {
                let number = self.number("address", &address.to_string());
                let last = u32::from(Ipv4Addr::new(100, 64, 0, 0)).wrapping_add(number as u32);
                Ipv4Addr::from(last).to_string()
            }
            Ok(_) => address.to_owned(),
            Err(_) => String::new(),
        }
    }

    fn resource(&mut self, name: &str) -> String {
        if !name.contains('/') || is_kubernetes(name) || name.starts_with("nvidia.com/") {
            return name.to_owned();
        }
        format!("berth.dev/{}", self.of("resource", name))
    }

    /// `key=value:effect` with its words replaced; `*` and the effect stay.
    fn taint(&mut self, taint: &str) -> String {
        let (pair, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = if key == "*" { key.to_owned() } else { self.taint_key(key) };
        let value = if value.is_empty() { String::new() } else { self.of("value", value) };
        let equals = if pair.contains('=') { "=" } else { "" };
        let colon = if taint.contains(':') { ":" } else { "" };
        format!("{key}{equals}{value}{colon}{effect}")
    }

    fn taint_key(&mut self, key: &str) -> String {
        if is_kubernetes(key) { key.to_owned() } else { self.of("taint", key) }
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let pairs = labels.iter();
        pairs.map(|(key, value)| (self.key(key), self.value(key, value))).collect()
    }

    /// Remembers which labels a pod's spec compares as numbers.
    fn learn(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                let operator = fields.get("operator").and_then(Value::as_str);
                if let (Some("Gt" | "Lt"), Some(key)) =
                    (operator, fields.get("key").and_then(Value::as_str))
                {
                    self.compared.insert(key.to_owned());
                }
                fields.values().for_each(|each| self.learn(each));
            }
            Value::Array(list) => list.iter().for_each(|each| self.learn(each)),
            _ => {}
        }
    }

    /// Replaces the words in what was kept of a pod's spec, by the names of the fields.
    fn hide(&mut self, value: &mut Value) {
        let Value::Object(fields) = value else {
            if let Value::Array(list) = value {
                list.iter_mut().for_each(|each| self.hide(each));
            }
            return;
        };
        for (name, field) in fields.iter_mut() {
            match (name.as_str(), field) {
                ("nodeSelector" | "matchLabels", Value::Object(labels)) => {
                    *labels = std::mem::take(labels)
                        .into_iter()
                        .map(|(key, value)| {
                            let text = value.as_str().unwrap_or_default();
                            (self.key(&key), Value::String(self.value(&key, text)))
                        })
                        .collect();
                }
                ("matchExpressions", Value::Array(list)) => {
                    list.iter_mut().for_each(|each| self.requirement(each, false));
                }
                ("matchFields", Value::Array(list)) => {
                    list.iter_mut().for_each(|each| self.requirement(each, true));
                }
                ("tolerations", Value::Array(list)) => {
                    list.iter_mut().for_each(|each| self.toleration(each));
                }
                ("matchLabelKeys" | "mismatchLabelKeys", Value::Array(list)) => {
                    self.each(list, Self::key);
                }
                ("namespaces", Value::Array(list)) => {
                    self.each(list, |words, name| words.of("namespace", name));
                }
                ("topologyKey", Value::String(key)) => *key = self.key(key),
                ("schedulerName", Value::String(name)) if name != "default-scheduler" => {
                    *name = self.of("scheduler", name);
                }
                ("requests" | "overhead", Value::Object(asked)) => {
                    *asked = std::mem::take(asked)
                        .into_iter()
                        .map(|(name, amount)| (self.resource(&name), amount))
                        .collect();
                }
                ("hostIP", Value::String(address)) => *address = self.address(address),
                (_, field) => self.hide(field),
            }
        }
    }

    /// A requirement on labels, or on a node's name.
    fn requirement(&mut self, requirement: &mut Value, of_name: bool) {
        let key = requirement["key"].as_str().unwrap_or_default().to_owned();
        if let Some(Value::Array(values)) = requirement.get_mut("values") {
            self.each(values, |words, value| match of_name {
                true => words.of("node", value),
                false => words.value(&key, value),
            });
        }
        if let (Some(named), false) = (requirement.get_mut("key"), of_name) {
            *named = Value::String(self.key(&key));
        }
    }

    fn toleration(&mut self, toleration: &mut Value) {
        if let Some(Value::String(key)) = toleration.get_mut("key")
            && !key.is_empty()
        {
            *key = self.taint_key(key);
        }
        if let Some(Value::String(value)) = toleration.get_mut("value")
            && !value.is_empty()
        {
            *value = self.of("value", value);
        }
    }

    fn each(&mut self, list: &mut [Value], mut hide: impl FnMut(&mut Self, &str) -> String) {
        for value in list {
            if let Value::String(text) = value {
                *text = hide(self, text);
            }
        }
    }
}
