//! `berth logs`: what an app's containers print, those of new pods too while following.

mod files;

use std::collections::HashSet;
use std::io::Write;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::io::AsyncBufRead;
use futures::stream::{BoxStream, SelectAll};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use crate::cli::Global;
use crate::{connect, failure, pods};

/// `berth logs`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The app, or a pod
    name: String,
    /// Go on as more is printed, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each container
    #[arg(long)]
    tail: Option<i64>,
    /// Only what is younger, in seconds
    #[arg(long, value_name = "SECONDS")]
    since: Option<i64>,
    /// What the container before a restart printed
    #[arg(long)]
    previous: bool,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
    /// Only this container
    #[arg(short, long)]
    container: Option<String>,
    /// Only what the app wrote into its log directories, not what its containers print
    #[arg(long, conflicts_with_all = ["container", "previous"])]
    files: bool,
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Options {
    /// Whether the files of log directories are wanted too.
    fn with_files(&self) -> bool {
        self.container.is_none() && !self.previous
    }
}

type Lines = BoxStream<'static, Result<String>>;

/// Prints until the logs end; with `--follow`, until interrupted.
///
/// # Errors
/// When there is no such app, or its logs cannot be read.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let client = connect::client(global).await?;
    let first = pods::of(&client, &options.namespace, &options.name).await;
    let collected = match options.with_files() {
        true => files::open(&client, &options, first.as_deref().unwrap_or_default()).await?,
        false => None,
    };
    // What was collected is there when the pods, and the app itself, are not any more.
    let first = match first {
        Err(_) if collected.is_some() => Vec::new(),
        first => first?,
    };
    let first = if options.files { Vec::new() } else { first };
    let many = options.follow || first.len() > 1 || collected.is_some();
    let api: Api<Pod> = Api::namespaced(client.clone(), &options.namespace);
    let mut open = HashSet::new();
    let mut lines: SelectAll<Lines> = SelectAll::new();
    if options.files && collected.is_none() {
        let message = format!("no log directory of `{}` was collected", options.name);
        let hint = "`logs: {directories: [/var/log/app]}` in the App names one";
        return Err(failure::Failure::new(failure::Exit::Failed, message, hint).into());
    }
    lines.extend(collected);
    for pod in &first {
        for container in containers(pod, &options) {
            let key = (pod.uid().unwrap_or_default(), container.clone());
            match stream(&api, pod.name_any(), container, &options, many).await {
                Ok(more) => {
                    open.insert(key);
                    lines.push(more);
                }
                // A pod that comes up or goes away hides no other's; while following, it is
                // opened when it runs.
                Err(_) if options.follow && pod.metadata.deletion_timestamp.is_none() => {}
                Err(error) if first.len() > 1 => eprintln!("berth: {}", failure::chain(&error)),
                Err(error) => return Err(error),
            }
        }
    }
    if !options.follow {
        while let Some(line) = lines.try_next().await? {
            print(&line)?;
        }
        return Ok(());
    }
    if options.files {
        while let Some(line) = lines.try_next().await? {
            print(&line)?;
        }
        return Ok(());
    }
    let mut changes = pin!(changes(&client, &options));
    loop {
        tokio::select! {
            Some(line) = lines.next() => match line {
                Ok(line) => print(&line)?,
                Err(error) => eprintln!("berth: a log ended: {}", failure::chain(&error)),
            },
            pod = changes.next() => {
                let pod = pod.ok_or_else(|| anyhow!("the watch of pods ended"))?;
                for container in started(&pod, &options) {
                    if !open.insert((pod.uid().unwrap_or_default(), container.clone())) {
                        continue;
                    }
                    match stream(&api, pod.name_any(), container, &options, many).await {
                        Ok(more) => lines.push(more),
                        Err(error) => eprintln!("berth: {}", failure::chain(&error)),
                    }
                }
            }
        }
    }
}

/// Pods of the app as they change; survives a server that is away for a while.
fn changes(client: &Client, options: &Options) -> impl futures::Stream<Item = Pod> + use<> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &options.namespace);
    let config = watcher::Config::default().labels(&pods::selector(&options.name));
    let backoff = watcher::DefaultBackoff::default();
    watcher(api, config).backoff(backoff).applied_objects().filter_map(async |pod| pod.ok())
}

fn containers(pod: &Pod, options: &Options) -> Vec<String> {
    let all = pod.spec.iter().flat_map(|spec| &spec.containers);
    let names = all.map(|container| container.name.clone());
    names.filter(|name| options.container.as_ref().is_none_or(|only| only == name)).collect()
}

/// The containers that have something to print.
fn started(pod: &Pod, options: &Options) -> Vec<String> {
    let running = |name: &String| {
        pods::statuses(pod).any(|status| {
            let state = status.state.as_ref();
            status.name == *name
                && state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        })
    };
    containers(pod, options).into_iter().filter(running).collect()
}

async fn stream(
    api: &Api<Pod>,
    pod: String,
    container: String,
    options: &Options,
    prefixed: bool,
) -> Result<Lines> {
    let params = LogParams {
        container: Some(container),
        follow: options.follow,
        previous: options.previous,
        since_seconds: options.since,
        tail_lines: options.tail,
        timestamps: options.timestamps,
        ..LogParams::default()
    };
    let opening = tokio::time::timeout(Duration::from_secs(30), api.log_stream(&pod, &params));
    let reader = opening.await.map_err(|_| anyhow!("no answer for the logs of {pod}"))??;
    let prefix = if prefixed { format!("{pod} ") } else { String::new() };
    Ok(lines(reader, prefix))
}

fn lines(reader: impl AsyncBufRead + Send + 'static, prefix: String) -> Lines {
    let lines = Box::pin(reader).lines();
    lines.map(move |line| Ok(format!("{prefix}{}\n", line?))).boxed()
}

fn print(line: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(line.as_bytes())?)
}
