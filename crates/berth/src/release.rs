//! `berth release`: versions on their way out, and what people can do about them.

use anyhow::Result;
use berth_api::app::App;
use berth_api::release::{self, Phase, Release, StepStatus};
use jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::app::{Why, releases};
use crate::cli::Global;
use crate::connect;
use crate::failure::{Exit, Failure};
use crate::output::{age, columns};

/// `berth release`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// List releases, of one app or of all
    List {
        /// The app
        app: Option<String>,
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// Of every namespace
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Show the steps of an app's release, with their times and what was measured
    Status(Which),
    /// Keep a release where it is
    Pause(Which),
    /// Let it go on
    Resume(Which),
    /// End the wait of its present step
    Promote {
        #[command(flatten)]
        which: Which,
        /// End all waits
        #[arg(long)]
        full: bool,
    },
    /// Take it back
    Abort(Which),
    /// Make an app what it was before
    Rollback {
        /// The app
        app: String,
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// The revision to go back to [default: the last before that succeeded]
        #[arg(long)]
        to: Option<i64>,
    },
}

#[derive(clap::Args, Debug)]
struct Which {
    /// The app
    app: String,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Which of its releases [default: the newest]
    #[arg(long)]
    revision: Option<i64>,
}

/// Does what the command line says.
///
/// # Errors
/// There is no such release, it is over, or the server refuses.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let client = connect::client(global).await?;
    match options.command {
        Command::List { app, namespace, all_namespaces } => {
            list(global, &client, app.as_deref(), &namespace, all_namespaces).await
        }
        Command::Status(which) => status(global, &client, &which).await,
        Command::Pause(which) => {
            wish(global, &client, &which, "is paused", |_| Ok(json!({ "paused": true }))).await
        }
        Command::Resume(which) => {
            wish(global, &client, &which, "goes on", |_| Ok(json!({ "paused": false }))).await
        }
        Command::Promote { which, full } => {
            let promote = |release: &Release| {
                let status = release.status.clone().unwrap_or_default();
                let all = i32::try_from(status.steps.len()).unwrap_or(i32::MAX);
                let upto = if full { all } else { status.step + 1 };
                Ok(json!({ "promoted": upto, "paused": false }))
            };
            wish(global, &client, &which, "is promoted", promote).await
        }
        Command::Abort(which) => {
            wish(global, &client, &which, "is being taken back", can_abort).await
        }
        Command::Rollback { app, namespace, to } => {
            rollback(global, &client, &app, &namespace, to).await
        }
    }
}

/// Once the main workload takes a version on, the way back is a release of its own.
fn can_abort(release: &Release) -> Result<Value> {
    let status = release.status.clone().unwrap_or_default();
    let at = usize::try_from(status.step).ok().and_then(|index| status.steps.get(index));
    if at.is_some_and(|step| step.kind == "finish") {
        let app = &release.spec.app;
        let message = format!("release {} has all requests already", release.spec.revision);
        let hint = format!("go back by a release of its own: berth release rollback {app}");
        return Err(Failure::new(Exit::Failed, message, hint).into());
    }
    Ok(json!({ "abort": true }))
}

fn phase(release: &Release) -> Phase {
    release.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

async fn list(
    global: &Global,
    client: &Client,
    app: Option<&str>,
    namespace: &str,
    everywhere: bool,
) -> Result<()> {
    let api: Api<Release> = if everywhere {
        Api::all(client.clone())
    } else {
        Api::namespaced(client.clone(), namespace)
    };
    let of = app.map(|app| format!("{}={app}", release::APP_LABEL)).unwrap_or_default();
    let mut all = api.list(&ListParams::default().labels(&of)).await?.items;
    all.sort_by_key(|one| {
        std::cmp::Reverse(one.metadata.creation_timestamp.clone().map(|at| at.0))
    });
    let now = Timestamp::now();
    let shown: Vec<Value> = all
        .iter()
        .map(|one| {
            let status = one.status.clone().unwrap_or_default();
            let created = one.metadata.creation_timestamp.as_ref();
            json!({
                "namespace": one.namespace(), "app": one.spec.app, "revision": one.spec.revision,
                "strategy": one.spec.strategy.kind.word(), "phase": status.phase.word(),
                "at": status.at, "image": one.spec.image, "author": one.spec.author,
                "message": status.message,
                "age": created.map_or_else(String::new, |at| age(at.0, now)),
            })
        })
        .collect();
    global.output.print(&shown, || {
        let row = |one: &Value| {
            let word = |key: &str| match &one[key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            ["app", "revision", "strategy", "phase", "at", "image", "author", "age", "message"]
                .map(word)
                .to_vec()
        };
        let rows: Vec<_> = shown.iter().map(row).collect();
        let header =
            ["APP", "REVISION", "STRATEGY", "PHASE", "STEP", "IMAGE", "AUTHOR", "AGE", "MESSAGE"];
        columns(&header, &rows)
    })
}

async fn find(client: &Client, which: &Which) -> Result<Release> {
    let all = releases(client, &which.namespace, &which.app).await?;
    let found = match which.revision {
        Some(revision) => all.into_iter().find(|one| one.spec.revision == revision),
        None => all.into_iter().next_back(),
    };
    found.ok_or_else(|| {
        let message = format!("{} in {} has no such release", which.app, which.namespace);
        let hint = format!("see `berth release list {} -n {}`", which.app, which.namespace);
        Failure::new(Exit::Failed, message, hint).into()
    })
}

async fn status(global: &Global, client: &Client, which: &Which) -> Result<()> {
    let release = find(client, which).await?;
    let status = release.status.clone().unwrap_or_default();
    let shown = json!({ "name": release.name_any(), "spec": release.spec, "status": status });
    global.output.print(&shown, || {
        let spec = &release.spec;
        let mut text = format!(
            "release    {} of {}\nimage      {}\nstrategy   {}\nphase      {}\n",
            spec.revision,
            spec.app,
            spec.image,
            spec.strategy.kind.word(),
            status.phase.word()
        );
        for (word, value) in [
            ("commit", spec.commit.as_deref().unwrap_or_default()),
            ("author", spec.author.as_str()),
            ("cause", spec.cause.as_str()),
            ("now at", status.at.as_str()),
            ("message", status.message.as_str()),
        ] {
            if !value.is_empty() {
                text += &format!("{word:10} {value}\n");
            }
        }
        for note in &status.notes {
            text += &format!("note       {note}\n");
        }
        text.push('\n');
        let at = usize::try_from(status.step).unwrap_or(0);
        let rows: Vec<_> =
            status.steps.iter().enumerate().map(|(n, one)| row(one, n == at)).collect();
        text + &columns(&["", "STEP", "TO IT", "IN IT", "MEASURED"], &rows)
    })
}

fn row(step: &StepStatus, now: bool) -> Vec<String> {
    let time = |text: &Option<String>| text.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
    let (begun, reached, ended) =
        (time(&step.started_at), time(&step.reached_at), time(&step.ended_at));
    let between = |a: Option<Timestamp>, b: Option<Timestamp>| match (a, b) {
        (Some(a), Some(b)) => age(a, b),
        (Some(a), None) if now => age(a, Timestamp::now()),
        _ => String::new(),
    };
    let name = match step.weight {
        Some(weight) => format!("{} {weight}%", step.kind),
        None => step.kind.clone(),
    };
    let answers = step
        .answers
        .as_ref()
        .map(|one| format!("{} requests: {}% good, {} ms", one.requests, one.success, one.latency));
    let checks = step.checks.iter().map(|one| {
        let value = one.value.map_or_else(|| one.message.clone(), |value| value.to_string());
        format!("{}={value} ({} good, {} bad)", one.name, one.good, one.bad)
    });
    let measured: Vec<String> = answers.into_iter().chain(checks).collect();
    let mark = match (now && ended.is_none() && begun.is_some(), ended) {
        (true, _) => "→",
        (_, Some(_)) => "✓",
        _ => "",
    };
    vec![
        mark.to_owned(),
        name,
        between(begun, reached),
        between(reached, ended),
        measured.join(", "),
    ]
}

async fn wish(
    global: &Global,
    client: &Client,
    which: &Which,
    done: &str,
    spec: impl Fn(&Release) -> Result<Value>,
) -> Result<()> {
    let release = find(client, which).await?;
    if phase(&release).is_over() {
        let word = phase(&release).word();
        let message = format!("release {} of {} is over: {word}", release.spec.revision, which.app);
        return Err(Failure::new(Exit::Failed, message, "").into());
    }
    let patch = Patch::Merge(json!({ "spec": spec(&release)? }));
    let api: Api<Release> = Api::namespaced(client.clone(), &which.namespace);
    api.patch(&release.name_any(), &PatchParams::default(), &patch).await?;
    let shown = json!({ "app": which.app, "revision": release.spec.revision, "did": done });
    global
        .output
        .print(&shown, || format!("release {} of {} {done}\n", release.spec.revision, which.app))
}

/// Writes the spec of an earlier release into the App; the rest is an ordinary release.
async fn rollback(
    global: &Global,
    client: &Client,
    app: &str,
    namespace: &str,
    to: Option<i64>,
) -> Result<()> {
    let all = releases(client, namespace, app).await?;
    let newest = all.last();
    let good = |one: &&Release| phase(one) == Phase::Succeeded;
    let goal = match to {
        Some(revision) => all.iter().find(|one| one.spec.revision == revision),
        // While one is on its way, what ran before it; afterwards, what ran before that.
        None if newest.is_some_and(|newest| !phase(newest).is_over()) => {
            all.iter().rev().find(good)
        }
        None => all.iter().rev().filter(good).nth(1),
    };
    let Some(goal) = goal else {
        let message = format!("{app} in {namespace} has no such release to go back to");
        return Err(Failure::new(Exit::Failed, message, "see `berth app history`").into());
    };
    let api: Api<App> = Api::namespaced(client.clone(), namespace);
    let current = api.get(app).await?;
    let mut spec = json!(goal.spec.app_spec);
    // How many there are, and how the next versions come, is no matter of the version.
    let now = json!(current.spec);
    for kept in ["replicas", "scale", "strategy", "drift"] {
        match now.get(kept) {
            Some(value) => spec[kept] = value.clone(),
            None => drop(spec.as_object_mut().and_then(|spec| spec.remove(kept))),
        }
    }
    let mut whole = current.clone();
    whole.spec = serde_json::from_value(spec)?;
    let revision = goal.spec.revision;
    let why = Why {
        commit: goal.spec.commit.clone(),
        cause: Some(format!("rollback to {revision}")),
        author: None,
    };
    let notes = whole.metadata.annotations.get_or_insert_default();
    if let Value::Object(said) = why.annotations() {
        for (key, value) in said {
            match value.as_str() {
                Some(text) => drop(notes.insert(key, text.to_owned())),
                None => drop(notes.remove(&key)),
            }
        }
    }
    api.replace(app, &kube::api::PostParams::default(), &whole).await?;
    let shown = json!({ "app": app, "to": revision });
    global.output.print(&shown, || format!("{app} goes back to revision {revision}\n"))
}
