//! The standing comparison over HTTP: `/` for people, `/report` as JSON, `/metrics` for Prometheus.
//!
//! Refuses to say more of the cluster than counts and the name of each first pod that found no
//! place, so it asks nobody who he is; it listens where it is told to.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use berth_daemon::Tasks;
use jiff::Timestamp;
use tokio::net::TcpListener;

use super::counts::BOUNDS_US;
use super::{Report, Shadow, Standing};

type Shared = Arc<Mutex<Shadow>>;

/// Answers on `listener` until `tasks` stop.
pub fn serve(shadow: Shared, listener: TcpListener, tasks: &Tasks) {
    let text = "text/plain; version=0.0.4; charset=utf-8";
    let router = Router::new()
        .route("/", get(async |State(shadow): State<Shared>| report(&shadow).table()))
        .route("/report", get(json))
        .route("/healthz", get(async || "ok"))
        .route(
            "/metrics",
            get(async move |State(shadow): State<Shared>| {
                ([(CONTENT_TYPE, text)], metrics(&report(&shadow))).into_response()
            }),
        )
        .with_state(shadow);
    let group = tasks.clone();
    tasks.spawn("shadow-http", async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move { group.stopping().await });
        if let Err(error) = served.await {
            tracing::warn!(%error, "the shadow's endpoint ended");
        }
    });
}

async fn json(State(shadow): State<Shared>) -> impl IntoResponse {
    let text = serde_json::to_string(&report(&shadow));
    let text = text.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
    text.map(|text| ([(CONTENT_TYPE, "application/json")], text))
}

fn report(shadow: &Shared) -> Report {
    shadow.lock().expect("no holder of the lock panics").report(Timestamp::now())
}

/// One series for each scheduler.
struct Series {
    name: &'static str,
    kind: &'static str,
    about: &'static str,
    value: fn(&Standing) -> Option<f64>,
}

const SERIES: [Series; 11] = [
    Series {
        name: "berth_shadow_decided_total",
        kind: "counter",
        about: "Pods given a node.",
        value: |each| Some(each.decided as f64),
    },
    Series {
        name: "berth_shadow_same_node_total",
        kind: "counter",
        about: "Pods given the node that the live scheduler chose.",
        value: |each| Some(each.same as f64),
    },
    Series {
        name: "berth_shadow_other_node_total",
        kind: "counter",
        about: "Pods given another node than the live scheduler chose.",
        value: |each| Some(each.other as f64),
    },
    Series {
        name: "berth_shadow_refused_total",
        kind: "counter",
        about: "Pods that found no node at first.",
        value: |each| Some(each.refused as f64),
    },
    Series {
        name: "berth_shadow_waiting_pods",
        kind: "gauge",
        about: "Pods without a node now.",
        value: |each| Some(each.waiting as f64),
    },
    Series {
        name: "berth_shadow_cpu_allocated_percent",
        kind: "gauge",
        about: "Cores allocated, of all.",
        value: |each| Some(each.cpu_percent),
    },
    Series {
        name: "berth_shadow_cpu_fragments_percent",
        kind: "gauge",
        about: "Cores free yet of no use to a typical pod, of all.",
        value: |each| Some(each.cpu_fragments_percent),
    },
    Series {
        name: "berth_shadow_gpu_allocated_percent",
        kind: "gauge",
        about: "Devices allocated, of all.",
        value: |each| each.gpu_percent,
    },
    Series {
        name: "berth_shadow_gpu_fragments_percent",
        kind: "gauge",
        about: "Devices free yet of no use to a typical pod, of all.",
        value: |each| each.gpu_fragments_percent,
    },
    Series {
        name: "berth_shadow_cpu_deviation_points",
        kind: "gauge",
        about: "Standard deviation of nodes' allocated cores.",
        value: |each| Some(each.cpu_deviation),
    },
    Series {
        name: "berth_shadow_empty_nodes",
        kind: "gauge",
        about: "Nodes with nothing on them.",
        value: |each| Some(each.empty_nodes as f64),
    },
];

fn metrics(report: &Report) -> String {
    let mut out = String::new();
    let all: Vec<&Standing> = std::iter::once(&report.live).chain(&report.policies).collect();
    let label = |each: &Standing| {
        let name = each.policy.replace('\\', "\\\\").replace('"', "\\\"");
        format!("policy=\"{name}\"")
    };
    for Series { name, kind, about, value } in SERIES {
        let _ = writeln!(out, "# HELP {name} {about}\n# TYPE {name} {kind}");
        for each in all.iter().filter(|each| each.fault.is_none()) {
            if let Some(value) = value(each) {
                let _ = writeln!(out, "{name}{{{}}} {value}", label(each));
            }
        }
    }
    let name = "berth_shadow_decision_duration_seconds";
    let about = "To decide; of the live scheduler, from when its pod was seen until its node was.";
    let _ = writeln!(out, "# HELP {name} {about}\n# TYPE {name} histogram");
    for each in all {
        let (label, mut below) = (label(each), 0);
        for (bucket, bound) in each.took.buckets.iter().zip(BOUNDS_US) {
            below += bucket;
            let bound = bound as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{{label},le=\"{bound}\"}} {below}");
        }
        let (count, sum) = (each.took.count, each.took.sum_us as f64 / 1e6);
        let _ = writeln!(out, "{name}_bucket{{{label},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{label}}} {sum}\n{name}_count{{{label}}} {count}");
    }
    out
}
