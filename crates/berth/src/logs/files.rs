//! What an app wrote into its log directories, as its nodes collected it: on the embedded ground the
//! API serves it, on any other Kubernetes the collectors of `berth install` do.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use berth_api::app::logs::collector::NOTICE;
use berth_console::collected::{self, Collected};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use kube::{Client, ResourceExt};

use super::{Lines, Options};

/// The collected lines, each `POD PATH TEXT`; `None` where nothing was collected, or on a cluster
/// whose nodes do not. `pods` are those of the app, or the pod that was named.
///
/// # Errors
/// When the server refuses.
pub async fn open(client: &Client, options: &Options, pods: &[Pod]) -> Result<Option<Lines>> {
    // Whoever names a pod wants its lines of what the App wrote.
    let app = pods.first().and_then(|pod| pod.labels().get(berth_api::labels::INSTANCE)).cloned();
    let app = app.unwrap_or_else(|| options.name.clone());
    let only = (app != options.name).then(|| options.name.clone());
    let mut query = vec![("follow", options.follow.to_string())];
    query.extend(options.timestamps.then(|| ("timestamps", "true".to_owned())));
    query.extend(options.since.map(|since| ("sinceSeconds", since.to_string())));
    let tail = options.tail.and_then(|tail| usize::try_from(tail).ok());
    // The last lines of one pod are among those of all; while following, what comes next counts.
    let ours = only.is_some() && !options.follow;
    query.extend(tail.filter(|_| !ours).map(|tail| ("tailLines", tail.to_string())));
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = query.join("&");
    let path =
        format!("/apis/berth.dev/v1/namespaces/{}/apps/{app}/log?{query}", options.namespace);
    let request = http::Request::get(path).body(Body::empty())?;
    let opening = tokio::time::timeout(Duration::from_secs(30), client.send(request));
    let answer = opening.await.map_err(|_| anyhow!("no answer for the logs of {app}"))??;
    let answer = match answer.status() {
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {
            elsewhere(client, options, &app, &query).await?
        }
        // No directories, or nodes of another kind.
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => None,
        _ => Some(answer),
    };
    let Some(answer) = answer else { return Ok(None) };
    if !answer.status().is_success() {
        bail!("reading the log directories of {app}: {}", message(answer).await);
    }
    let reader = collected::reader(answer);
    let timestamps = options.timestamps;
    let lines = Box::pin(reader).lines().map_err(anyhow::Error::from);
    let lines = lines.try_filter(move |line| {
        let text =
            if timestamps { line.split_once(' ').map_or("", |(_, text)| text) } else { line };
        let pod = text.split_once(' ').map_or("", |(pod, _)| pod);
        if let Some(notice) = text.strip_prefix(NOTICE) {
            eprintln!("berth: {}", notice.trim_end_matches(']'));
            return std::future::ready(false);
        }
        std::future::ready(only.as_deref().is_none_or(|only| only == pod))
    });
    let lines = lines.map_ok(|line| format!("{line}\n"));
    match tail.filter(|_| ours) {
        None => Ok(Some(lines.boxed())),
        Some(tail) => {
            let last = lines.try_fold(VecDeque::new(), |mut last, line| async move {
                last.push_back(line);
                if last.len() > tail {
                    last.pop_front();
                }
                Ok(last)
            });
            Ok(Some(futures::stream::iter(last.await?.into_iter().map(Ok)).boxed()))
        }
    }
}

/// The collectors' answer; `None` when there are none, or they have nothing.
async fn elsewhere(
    client: &Client,
    options: &Options,
    app: &str,
    query: &str,
) -> Result<Option<http::Response<Body>>> {
    let namespace = &options.namespace;
    match collected::ask(client, namespace, app, query, |_| {}).await? {
        Collected::Answer(answer) if answer.status() == StatusCode::NOT_FOUND => Ok(None),
        Collected::Answer(answer) => Ok(Some(*answer)),
        Collected::Refused(StatusCode::FORBIDDEN) if options.files => {
            bail!("this user may not read the log directories of namespace {namespace}")
        }
        Collected::Nothing | Collected::Refused(_) => Ok(None),
    }
}

/// What a refusal says.
async fn message(answer: http::Response<Body>) -> String {
    let status = answer.status();
    let bytes = answer.into_body().collect_bytes().await.unwrap_or_default();
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    said["message"].as_str().map_or_else(|| status.to_string(), str::to_owned)
}
