//! `/containerLogs`: what a container wrote.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use berth_api::app::logs::NONE_HERE;
use http::{StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{Node, Refusal, containers};
use crate::app_logs;
use crate::logs::{self, LogReader, Options};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Asked {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<u64>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
    limit_bytes: Option<u64>,
    stream: Option<String>,
}

pub(super) async fn show(
    State(node): State<Node>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let previous = is_true(asked.previous.as_deref());
    let entry = containers::pod(&node, &namespace, &pod, None)?;
    let attempt = containers::attempt(&entry, &container, previous)?;
    let options = options(&asked, Timestamp::now())?;
    let reader = LogReader::open(&attempt.log_path, options).await.map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            let text = format!("container {container:?} has no log yet");
            return Refusal(StatusCode::NOT_FOUND, text);
        }
        let text = format!("cannot read the log of container {container:?}: {error}");
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
    let pods = node.pods.clone();
    let running = move || {
        pods.by_uid(&uid).is_some_and(|entry| {
            let current = entry.containers.get(&container).and_then(|c| c.current.as_ref());
            current.is_some_and(|current| !current.ended && current.id == attempt.id)
        })
    };
    let body = Body::from_stream(logs::stream(reader, running));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// What was collected of an App.
pub(super) async fn show_app(
    State(node): State<Node>,
    Path((namespace, app)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let none = || {
        let text = format!("{NONE_HERE} {namespace}/{app} is on this node");
        Refusal(StatusCode::NOT_FOUND, text)
    };
    let root = app_logs::root(&node.config);
    let path = app_logs::log_path(&root, &namespace, &app).ok_or_else(none)?;
    let options = options(&asked, Timestamp::now())?;
    let reader = LogReader::open(&path, options).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => none(),
        _ => {
            let text = format!("cannot read the log of app {app:?}: {error}");
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    })?;
    // The App may write as long as it likes; whoever follows ends it.
    let body = Body::from_stream(logs::stream(reader, || true));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// What the query asks for.
pub(crate) fn options(asked: &Asked, now: Timestamp) -> Result<Options, Refusal> {
    let wrong = |text: &str| Refusal(StatusCode::BAD_REQUEST, text.to_owned());
    let since = match (asked.since_time, asked.since_seconds) {
        (Some(_), Some(_)) => return Err(wrong("give only one of sinceTime and sinceSeconds")),
        (time, None) => time,
        (None, Some(seconds)) if seconds < 1 => return Err(wrong("sinceSeconds is less than 1")),
        // Longer ago than time reaches is the same as no limit.
        (None, Some(seconds)) => now.checked_sub(SignedDuration::from_secs(seconds)).ok(),
    };
    let stream = match asked.stream.as_deref() {
        None | Some("" | "All") => None,
        Some("Stdout") => Some("stdout"),
        Some("Stderr") => Some("stderr"),
        Some(_) => return Err(wrong("stream is none of All, Stdout and Stderr")),
    };
    Ok(Options {
        follow: is_true(asked.follow.as_deref()),
        tail_lines: asked.tail_lines,
        since,
        timestamps: is_true(asked.timestamps.as_deref()),
        limit_bytes: asked.limit_bytes,
        stream,
    })
}

impl Asked {
    /// The same of another node, for whom merges: with times, and from `since` on where it is said.
    pub(crate) fn of_a_part(&self, since: Option<Timestamp>) -> String {
        let mut query = vec!["timestamps=true".to_owned()];
        query.extend(self.follow.as_ref().map(|value| format!("follow={value}")));
        if let Some(since) = since.or(self.since_time) {
            query.push(format!("sinceTime={since}"));
        } else {
            query.extend(self.since_seconds.map(|seconds| format!("sinceSeconds={seconds}")));
            query.extend(self.tail_lines.map(|lines| format!("tailLines={lines}")));
        }
        query.join("&")
    }
}

/// Kubernetes' way of reading a boolean parameter: present is true, unless it says otherwise.
pub(super) fn is_true(value: Option<&str>) -> bool {
    value.is_some_and(|value| !matches!(value, "0" | "false" | "False" | "FALSE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_becomes_options() {
        let now = Timestamp::from_second(1000).expect("a time");
        let read = |query: &str| {
            let uri: http::Uri = format!("http://n/log?{query}").parse().expect("an address");
            let Query(asked) = Query::<Asked>::try_from_uri(&uri).expect("a query");
            options(&asked, now).map_err(|Refusal(status, _)| status)
        };
        let expected = Options {
            follow: true,
            tail_lines: Some(5),
            since: Timestamp::from_second(990).ok(),
            ..Options::default()
        };
        assert_eq!(read("follow=true&tailLines=5&sinceSeconds=10&timestamps=false"), Ok(expected));
        assert_eq!(read(""), Ok(Options::default()));
        for wrong in ["sinceSeconds=0", "sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z", "stream=x"]
        {
            assert_eq!(read(wrong), Err(StatusCode::BAD_REQUEST), "{wrong}");
        }
    }
}
