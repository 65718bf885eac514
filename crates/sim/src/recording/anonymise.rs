//! A recording without anybody's names, which packs the same.

use std::collections::{BTreeMap, HashMap};

use super::Recording;

impl Recording {
    /// Replaces every name, label and owner by a number; the same word by the same number.
    ///
    /// Sizes, times, models and who refers to whom stay: they are what a rehearsal needs.
    #[must_use]
    pub fn anonymised(mut self) -> Self {
        let mut words = Words::default();
        self.source = "anonymised".to_owned();
        for node in &mut self.nodes {
            node.name = words.of("node", &node.name);
            node.labels = words.labels(&node.labels);
            node.taints.iter_mut().for_each(|taint| *taint = words.taint(taint));
        }
        for pod in &mut self.pods {
            pod.name = words.of("pod", &pod.name);
            pod.node = pod.node.as_ref().map(|node| words.of("node", node));
            pod.owner = pod.owner.as_ref().map(|owner| words.of("owner", owner));
            pod.labels = words.labels(&pod.labels);
            pod.node_selector = words.labels(&pod.node_selector);
            pod.tolerations.iter_mut().for_each(|taint| *taint = words.taint(taint));
        }
        for budget in &mut self.budgets {
            budget.name = words.of("budget", &budget.name);
            budget.selector = words.labels(&budget.selector);
        }
        for used in &mut self.uses {
            used.pod = words.of("pod", &used.pod);
        }
        self
    }
}

#[derive(Default)]
struct Words(HashMap<(&'static str, String), usize>, HashMap<&'static str, usize>);

impl Words {
    fn of(&mut self, kind: &'static str, word: &str) -> String {
        let counts = &mut self.1;
        let number = *self.0.entry((kind, word.to_owned())).or_insert_with(|| {
            let count = counts.entry(kind).or_default();
            *count += 1;
            *count
        });
        format!("{kind}-{number}")
    }

    /// `key=value:effect` with its words replaced; `*` and the effect stay.
    fn taint(&mut self, taint: &str) -> String {
        let (pair, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = if key == "*" { key.to_owned() } else { self.of("taint", key) };
        let value = if value.is_empty() { String::new() } else { self.of("value", value) };
        let equals = if pair.contains('=') { "=" } else { "" };
        let colon = if taint.contains(':') { ":" } else { "" };
        format!("{key}{equals}{value}{colon}{effect}")
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let pairs = labels.iter();
        pairs.map(|(key, value)| (self.of("key", key), self.of("value", value))).collect()
    }
}
