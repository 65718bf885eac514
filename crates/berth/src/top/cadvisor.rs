//! I/O as cAdvisor tells it within a kubelet (`/metrics/cadvisor`, Prometheus' text format).
//!
//! Its `container_cpu_load_average_10s` is left out: kubelets do not turn its reader on, and then
//! it is 0 for everybody.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::kubelet::{Counted, Key, Sample};

/// The families that are read: bytes read and written, reads and writes.
const FAMILIES: [&str; 4] = [
    "container_fs_reads_bytes_total",
    "container_fs_writes_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_total",
];

/// Adds the I/O that `text` tells of to the containers that are there.
pub fn add(text: &str, samples: &mut BTreeMap<Key, Sample>) {
    let mut sums: BTreeMap<Key, ([Option<f64>; 4], Option<Timestamp>)> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some(index) = FAMILIES.iter().position(|family| *family == name) else { continue };
        let Some((labels, rest)) = labels(rest) else { continue };
        let label =
            |name: &str| labels.iter().find(|(own, _)| *own == name).map(|(_, value)| value);
        let (Some(namespace), Some(pod), Some(container)) =
            (label("namespace"), label("pod"), label("container"))
        else {
            continue;
        };
        let mut words = rest.split_whitespace();
        let Some(value) = words.next().and_then(|word| word.parse::<f64>().ok()) else { continue };
        let at = words.next().and_then(|word| Timestamp::from_millisecond(word.parse().ok()?).ok());
        let key = (namespace.clone(), pod.clone(), container.clone());
        let (counts, latest) = sums.entry(key).or_default();
        // A line for each disk.
        counts[index] = Some(counts[index].unwrap_or(0.0) + value);
        *latest = (*latest).max(at);
    }
    for (key, (counts, at)) in sums {
        let (Some(sample), Some(at)) = (samples.get_mut(&key), at) else { continue };
        let both =
            |one: Option<f64>, other: Option<f64>| Some(Counted { at, counts: [one?, other?] });
        sample.bytes = both(counts[0], counts[1]);
        sample.operations = both(counts[2], counts[3]);
    }
}

/// The labels of a series, and what comes behind them; none where they have no end.
fn labels(mut text: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name, value));
        text = &rest[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_add_up_and_other_series_are_passed_over() {
        let key: Key = ("shop".into(), "web".into(), "a".into());
        let mut samples = BTreeMap::from([(key.clone(), Sample::default())]);
        let own = r#"id="/k/x",image="i@sha256:1",name="x",namespace="shop",pod="web""#;
        let line = |family: &str, device: &str, value: &str| {
            format!(
                "container_fs_{family}_total{{container=\"a\",device=\"{device}\",{own}}} {value}\n"
            )
        };
        let machine =
            r#"container_fs_reads_bytes_total{container="",device="/dev/vda",id="/",pod=""}"#;
        let other = r#"container_fs_reads_bytes_total{container="b",namespace="shop",pod="web"}"#;
        let text = [
            "# TYPE container_fs_reads_bytes_total counter\n".to_owned(),
            format!("{machine} 9e+08 1637521210000\n"),
            line("reads_bytes", "/dev/vda", "4.096e+06 1637521210000"),
            line("reads_bytes", r#"/dev/v\"b}"#, "4096 1637521211000"),
            line("writes_bytes", "/dev/vda", "12 1637521210000"),
            line("writes", "/dev/vda", "3 1637521210000"),
            format!("{other} 1 1637521210000\n"),
            "container_fs_reads_bytes_total{container=\"a\n".to_owned(),
        ];
        add(&text.concat(), &mut samples);
        assert_eq!(samples.len(), 1, "the summary says who is there");
        let bytes = samples[&key].bytes.as_ref().unwrap();
        assert_eq!(bytes.counts, [4_100_096.0, 12.0]);
        assert_eq!(bytes.at.as_millisecond(), 1_637_521_211_000);
        assert_eq!(samples[&key].operations, None, "no reads were told");
    }
}
