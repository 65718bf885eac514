//! What an app wrote into its log directories, as its node collected it.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
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
    let path = format!(
        "/apis/berth.dev/v1/namespaces/{}/apps/{app}/log?{}",
        options.namespace,
        query.join("&")
    );
    let request = http::Request::get(path).body(Vec::new())?;
    let opening = tokio::time::timeout(Duration::from_secs(30), client.request_stream(request));
    let reader = match opening.await.map_err(|_| anyhow!("no answer for the logs of {app}"))? {
        Ok(reader) => reader,
        // No directories, or nodes of another kind.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 404 | 405) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let timestamps = options.timestamps;
    let lines = Box::pin(reader).lines().map_err(anyhow::Error::from);
    let lines = lines.try_filter(move |line| {
        let text =
            if timestamps { line.split_once(' ').map_or("", |(_, text)| text) } else { line };
        let pod = text.split_once(' ').map_or("", |(pod, _)| pod);
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
