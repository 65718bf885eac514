//! What is counted, as Prometheus reads it: CoreDNS' names where it has one for the same thing.
//!
//! Source: CoreDNS' plugins metrics, cache and forward; Prometheus text format 0.0.4.

use std::fmt::Write;

use crate::balancers;
use crate::counts::{CODES, SIZES, TIMES, TYPES, Tally, sum, totals};
use crate::served::Served;

/// The page.
pub(crate) fn page(served: &Served) -> String {
    let mut text = String::new();
    let udp = sum(served.counts.iter().map(AsRef::as_ref));
    let tcp = sum([&*served.streams]);
    let all = [("udp", &udp), ("tcp", &tcp)];
    requests(&mut text, all);
    let out = &mut text;
    head(out, "coredns_dns_responses_total", "counter", "Answers by response code.");
    for (code, at) in CODES.iter().zip(0..) {
        let count = udp.responses[at] + tcp.responses[at];
        row(out, "coredns_dns_responses_total", &[("rcode", code)], count);
    }
    for (name, help, of) in [
        (
            "coredns_dns_request_size_bytes",
            "Size of queries.",
            (|tally: &Tally| (tally.request_sizes, tally.request_bytes)) as fn(&Tally) -> _,
        ),
        ("coredns_dns_response_size_bytes", "Size of answers.", |tally: &Tally| {
            (tally.response_sizes, tally.response_bytes)
        }),
    ] {
        head(out, name, "histogram", help);
        for (protocol, tally) in all {
            let (buckets, bytes) = of(tally);
            let bounds = SIZES.iter().map(|bound| bound.to_string());
            histogram(out, name, protocol, bounds, &buckets, bytes as f64);
        }
    }
    let name = "coredns_dns_request_duration_seconds";
    head(out, name, "histogram", "From the query's arrival to its answer, for names of ours.");
    for (protocol, tally) in all {
        let bounds = TIMES.iter().map(|bound| (f64::from(*bound) / 1e6).to_string());
        histogram(out, name, protocol, bounds, &tally.times, tally.time as f64 / 1e6);
    }
    let kept = totals(served.counts.iter().map(AsRef::as_ref)).kept;
    let both = |of: fn(&Tally) -> u64| of(&udp) + of(&tcp);
    let zones = served.zone.get();
    let (balancers, down) = balancers::counts();
    let lost = served.log.as_ref().map_or(0, |log| log.lost());
    for (name, kind, help, value) in [
        (
            "coredns_cache_hits_total",
            "counter",
            "Answered from what upstreams said before.",
            both(|tally| tally.hits),
        ),
        (
            "coredns_cache_misses_total",
            "counter",
            "Given on, since nothing was kept.",
            both(|tally| tally.forwarded),
        ),
        ("coredns_cache_entries", "gauge", "Answers of upstreams that are kept by threads.", kept),
        (
            "coredns_forward_max_concurrent_rejects_total",
            "counter",
            "Not forwarded, since too many waited.",
            both(|tally| tally.refused),
        ),
        (
            "coredns_reload_failed_total",
            "counter",
            "Settings and zones that were not taken.",
            served.written.refused(),
        ),
        ("berth_dns_names", "gauge", "Names that have an answer.", zones.len() as u64),
        (
            "berth_dns_changes_total",
            "counter",
            "Changes of names put in force.",
            *served.zone.changes().borrow(),
        ),
        (
            "berth_dns_truncated_total",
            "counter",
            "Answers that said to come back over TCP.",
            both(|tally| tally.truncated),
        ),
        (
            "berth_dns_rate_limited_total",
            "counter",
            "Answers truncated by the rate limit.",
            both(|tally| tally.limited),
        ),
        (
            "berth_dns_rate_dropped_total",
            "counter",
            "Answers left out by the rate limit.",
            both(|tally| tally.dropped),
        ),
        (
            "berth_dns_query_log_lost_total",
            "counter",
            "Sampled queries that were not written.",
            lost,
        ),
        ("berth_dns_balancers", "gauge", "Balancers that say what they find.", balancers),
        ("berth_dns_addresses_down", "gauge", "Not given, as balancers find them down.", down),
    ] {
        head(out, name, kind, help);
        row(out, name, &[], value);
    }
    if let Some(kernel) = served.kernel.get() {
        let counted = kernel.read();
        let name = "berth_dns_kernel_queries_total";
        head(out, name, "counter", "Queries that the kernel's program saw, by what it did.");
        for (what, count) in [
            ("answered", counted.answered),
            ("unknown", counted.unknown),
            ("other", counted.other),
            ("limited", counted.limited),
            ("exchanged", counted.exchanged),
            ("failed", counted.failed),
        ] {
            row(out, name, &[("result", what)], count);
        }
    }
    text
}

fn requests(out: &mut String, all: [(&str, &Tally); 2]) {
    let name = "coredns_dns_requests_total";
    head(out, name, "counter", "Queries by protocol, family and type.");
    for (protocol, tally) in all {
        for (family, counts) in ["1", "2"].iter().zip(&tally.requests) {
            for ((_, kind), count) in TYPES.iter().zip(counts) {
                let labels = [("family", *family), ("proto", protocol), ("type", *kind)];
                row(out, name, &labels, *count);
            }
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // To write to a text cannot fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn row(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let _ = match labels.is_empty() {
        true => writeln!(out, "{name} {value}"),
        false => writeln!(out, "{name}{{{}}} {value}", labels.join(",")),
    };
}

fn histogram(
    out: &mut String,
    name: &str,
    protocol: &str,
    bounds: impl Iterator<Item = String>,
    buckets: &[u64],
    total: f64,
) {
    let mut count = 0;
    let bounds = bounds.chain(["+Inf".to_owned()]);
    for (bound, more) in bounds.zip(buckets) {
        count += more;
        let labels = [("proto", protocol), ("le", &bound)];
        row(out, &format!("{name}_bucket"), &labels, count);
    }
    let _ = writeln!(out, "{name}_sum{{proto=\"{protocol}\"}} {total}");
    row(out, &format!("{name}_count"), &[("proto", protocol)], count);
}
