//! What the controllers of Apps answer by HTTP where they run as pods: health, and pauses.
//!
//! A node of an older Kubernetes holds up a container's end until `/pause/SECONDS` has answered
//! (`driver::Pauser`). Whoever else asks waits too, and gets nothing for it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use berth_daemon::Tasks;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// No container takes longer to leave its Services.
const LONGEST: Duration = Duration::from_secs(30);
/// Pauses at once: a whole cluster's worth of ending containers. More are not held up.
const AT_ONCE: usize = 4096;

/// Answers on `listener` until `tasks` stop; who is being held up then is let go in time.
pub fn serve(listener: TcpListener, tasks: &Tasks) {
    let group = tasks.clone();
    tasks.spawn("controllers-http", async move {
        let served = axum::serve(listener, routes())
            .with_graceful_shutdown(async move { group.stopping().await });
        if let Err(error) = served.await {
            tracing::warn!(%error, "the controllers' endpoint ended");
        }
    });
}

fn routes() -> Router {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pause/{seconds}", get(pause))
        // Nodes before 1.21 write the first slash twice.
        .route("//pause/{seconds}", get(pause))
        .with_state(turns)
}

async fn pause(State(turns): State<Arc<Semaphore>>, Path(seconds): Path<u64>) -> StatusCode {
    let Ok(_turn) = turns.try_acquire() else { return StatusCode::SERVICE_UNAVAILABLE };
    tokio::time::sleep(Duration::from_secs(seconds).min(LONGEST)).await;
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    async fn ask(path: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        serve(listener, &tasks);
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        tasks.stop(Duration::from_secs(1)).await;
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_pause_takes_as_long_as_it_says() {
        for path in ["/pause/1", "//pause/1"] {
            let begun = Instant::now();
            assert_eq!(ask(path).await, "HTTP/1.1 204 No Content", "{path}");
            assert!(begun.elapsed() >= Duration::from_secs(1), "{path}");
        }
        assert_eq!(ask("/healthz").await, "HTTP/1.1 200 OK");
        assert_eq!(ask("/pause/long").await, "HTTP/1.1 400 Bad Request");
    }
}
