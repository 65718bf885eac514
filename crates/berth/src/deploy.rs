//! `berth deploy`: image from a directory → registry → App → running and reachable.

mod origin;
mod rollout;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use berth_api::app::App;
use berth_images::build::{self, Built};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::app::Why;
use crate::cli::Global;
use crate::connect;
use crate::failure::{Exit, Failure};
use crate::instance::Instance;
use crate::progress::Steps;

/// `berth deploy`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The directory, with a berth.toml, a Containerfile or a Dockerfile
    #[arg(required_unless_present = "image")]
    directory: Option<PathBuf>,
    /// Release this image instead of building one
    #[arg(long, conflicts_with = "directory")]
    image: Option<String>,
    /// The app's name [default: the directory's]
    #[arg(long, required_unless_present = "directory")]
    name: Option<String>,
    /// How many replicas (as before when not said, 1 at first)
    #[arg(long)]
    replicas: Option<i32>,
    /// A variable for the containers; those set before stay
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,
    /// A variable to take away
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// The port that the containers listen on [default: berth.toml's, or the image's]
    #[arg(long)]
    port: Option<u16>,
    /// Why, in a sentence
    #[arg(long)]
    cause: Option<String>,
    /// The commit that the image is built from [default: the directory's, if git knows it]
    #[arg(long)]
    commit: Option<String>,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Return as soon as the app is written
    #[arg(long)]
    no_wait: bool,
    /// How many seconds the rollout may take
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no KEY=VALUE")),
    }
}

/// What is released.
struct Source {
    image: String,
    port: Option<u16>,
    health: Option<String>,
}

/// Builds, releases, waits.
///
/// # Errors
/// [`Exit::Rollout`] when the app does not come up.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let client = connect::client(global).await?;
    let name = name(&options)?;
    let mut steps = Steps::new();
    let source = match (&options.image, &options.directory) {
        (Some(image), _) => Source { image: image.clone(), port: options.port, health: None },
        (None, Some(_)) => build(global, &options, &name, &mut steps).await?,
        (None, None) => bail!("a directory or --image is needed"),
    };
    steps.begin("release");
    let app = write(&client, &options, &name, &source).await?;
    if options.directory.is_some() {
        rollout::renew_waiting(&client, &options.namespace, &name).await?;
    }
    if !options.no_wait {
        steps.begin("rollout");
        let patience = std::time::Duration::from_secs(options.timeout);
        rollout::wait(&client, &options.namespace, &name, &app, patience, &mut steps).await?;
    }
    steps.done();
    let api: Api<App> = Api::namespaced(client, &options.namespace);
    let app = api.get(&name).await?;
    let url = app.status.as_ref().and_then(|status| status.url.clone()).unwrap_or_default();
    let shown =
        json!({ "name": name, "namespace": options.namespace, "image": source.image, "url": url });
    global.output.print(&shown, || match url.as_str() {
        "" => format!("{name} is written; `berth status {name}` shows how far it is\n"),
        url => format!("{name} answers at {url}\n"),
    })
}

fn name(options: &Options) -> Result<String> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => of_directory(options)?,
    };
    anyhow::ensure!(
        is_name(&name),
        "`{name}` is no app's name: 1 to 63 lower-case letters, digits and -, the first a letter, \
         the last no -; say another with --name"
    );
    Ok(name)
}

/// It becomes a Service's name and a part of a host's name (RFC 1035 §2.3.1).
fn is_name(name: &str) -> bool {
    berth_api::names::dns1035_label(name).is_ok()
}

fn of_directory(options: &Options) -> Result<String> {
    let directory = options.directory.clone().unwrap_or_default();
    let whole =
        directory.canonicalize().with_context(|| format!("reading {}", directory.display()))?;
    let last = whole.file_name().context("the directory has no name: say --name")?;
    Ok(last.to_string_lossy().to_lowercase().replace(['_', '.'], "-"))
}

async fn build(
    global: &Global,
    options: &Options,
    name: &str,
    steps: &mut Steps,
) -> Result<Source> {
    let instance = Instance::of(global)?;
    let directory = options.directory.clone().unwrap_or_default();
    steps.begin(format!("image of {}", directory.display()));
    let repository = format!("{}/{name}", options.namespace);
    let work = instance.dir.join("build");
    let built: Built =
        build::directory_in(&work, &directory, &repository, instance.registry(), |done, total| {
            steps.bytes(done, total);
        })
        .await
        .with_context(|| format!("building an image of {}", directory.display()))?;
    Ok(Source { image: built.reference, port: options.port.or(built.port), health: built.health })
}

/// Creates the App, or changes what was said.
async fn write(client: &Client, options: &Options, name: &str, source: &Source) -> Result<App> {
    let api: Api<App> = Api::namespaced(client.clone(), &options.namespace);
    let mut spec = Map::new();
    spec.insert("image".into(), json!(source.image));
    if let Some(replicas) = options.replicas {
        spec.insert("replicas".into(), json!(replicas));
    }
    if let Some(port) = source.port {
        spec.insert("port".into(), json!(port));
    }
    if let Some(health) = &source.health {
        spec.insert("health".into(), json!({ "path": health }));
    }
    let set = options.variables.iter().map(|(key, value)| (key.clone(), json!(value)));
    let unset = options.unset.iter().map(|key| (key.clone(), Value::Null));
    let env: BTreeMap<String, Value> = set.chain(unset).collect();
    if !env.is_empty() {
        spec.insert("env".into(), json!(env));
    }
    let commit = options.commit.clone().or_else(|| origin::commit(options.directory.as_deref()?));
    // What was built elsewhere has another source than what ran before.
    let origin = options.directory.as_deref().map(|dir| origin::of(dir, commit.clone()));
    spec.insert("source".into(), json!(origin));
    let notes = Why { commit, cause: options.cause.clone(), author: None }.annotations();
    let written = match api.get_opt(name).await? {
        Some(_) => {
            let patch = json!({ "metadata": { "annotations": notes }, "spec": spec });
            api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await
        }
        None => {
            let app = json!({
                "apiVersion": "berth.dev/v1",
                "kind": "App",
                "metadata": { "name": name, "annotations": without_nulls(notes) },
                "spec": without_null(spec),
            });
            let app: App = serde_json::from_value(app)?;
            api.create(&PostParams::default(), &app).await
        }
    };
    written.map_err(|error| match error {
        kube::Error::Api(status) => Failure::new(Exit::Failed, status.message.clone(), "").into(),
        other => anyhow::Error::new(other).context(format!("writing the app {name}")),
    })
}

fn without_nulls(mut notes: Value) -> Value {
    if let Some(notes) = notes.as_object_mut() {
        notes.retain(|_, value| !value.is_null());
    }
    notes
}

fn without_null(mut spec: Map<String, Value>) -> Map<String, Value> {
    spec.retain(|_, value| !value.is_null());
    if let Some(Value::Object(env)) = spec.get_mut("env") {
        env.retain(|_, value| !value.is_null());
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_a_service_and_a_host() {
        let (longest, longer) = ("a".repeat(63), "a".repeat(64));
        for good in ["a", "hello-2", &longest] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "2a", "a-", "-a", "a.b", "A", "a_b", &longer] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_variable_has_a_key_and_perhaps_an_empty_value() {
        for (text, expected) in [
            ("A=b", Ok(("A".into(), "b".into()))),
            ("A=b=c", Ok(("A".into(), "b=c".into()))),
            ("A=", Ok(("A".into(), String::new()))),
            ("A", Err("`A` is no KEY=VALUE".into())),
            ("=b", Err("`=b` is no KEY=VALUE".into())),
        ] {
            assert_eq!(variable(text), expected);
        }
    }
}
