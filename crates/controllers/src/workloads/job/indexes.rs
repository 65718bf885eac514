//! Completion indexes as Kubernetes writes them: `0-3,5,7-9`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;

use crate::workloads::pod::annotation;

/// The index a pod was made for.
pub(super) fn of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, super::INDEX)?.parse().ok()
}

/// The indexes that have succeeded, by their pods and by what was written down before.
pub(super) fn done(succeeded: &[Arc<Pod>], written: Option<&str>, spec: &JobSpec) -> BTreeSet<i32> {
    let completions = spec.completions.unwrap_or(0);
    let mut all = read(written.unwrap_or_default(), completions);
    all.extend(succeeded.iter().filter_map(|pod| of(pod)).filter(|i| (0..completions).contains(i)));
    all
}

/// As text; `None` for none.
pub(super) fn write(indexes: &BTreeSet<i32>) -> Option<String> {
    let mut text = String::new();
    let mut rest = indexes.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.next_if_eq(&(last + 1)).is_some() {
            last += 1;
        }
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match last - first {
            0 => write!(text, "{comma}{first}"),
            1 => write!(text, "{comma}{first},{last}"),
            _ => write!(text, "{comma}{first}-{last}"),
        };
    }
    (!text.is_empty()).then_some(text)
}

fn read(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_round_trip() {
        for text in ["0", "0,1", "0-3,5,7-9", "4,6-8"] {
            assert_eq!(write(&read(text, 100)).as_deref(), Some(text));
        }
        assert_eq!(write(&read("", 10)), None);
        assert_eq!(write(&read("0-2000000000", 3)).as_deref(), Some("0-2"));
    }
}
