//! The scheduler's own HTTP: `/healthz`, `/livez`, `/readyz`, `/metrics`.
//!
//! Refuses to say anything of the cluster but counts, so it asks nobody who he is.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use berth_daemon::Tasks;
use tokio::net::TcpListener;

use super::{Scheduler, metrics};

/// Answers on `listener` until `tasks` stop.
pub fn serve(scheduler: Scheduler, listener: TcpListener, tasks: &Tasks) {
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(async || ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics())))
        .with_state(scheduler);
    run(router, listener, tasks);
}

async fn ready(State(scheduler): State<Scheduler>) -> impl IntoResponse {
    if scheduler.is_ready() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster has not been read yet")
    }
}

/// Serves a router until `tasks` stop.
pub(super) fn run(router: Router, listener: TcpListener, tasks: &Tasks) {
    let group = tasks.clone();
    tasks.spawn("scheduler-http", async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move { group.stopping().await });
        if let Err(error) = served.await {
            tracing::warn!(%error, "the scheduler's endpoint ended");
        }
    });
}
