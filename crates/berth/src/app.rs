//! `berth app`: Apps as files and as they are: new, lint, diff, apply, show, history, delete.

mod document;
mod lint;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_api::app::{App, AppSpec};
use berth_api::release::{self, Release};
use berth_controllers::apps::drift;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::connect;
use crate::failure::{Exit, Failure};
use crate::output::{age, columns};

/// The field manager of what is applied from files.
const MANAGER: &str = "berth-app";

/// `berth app`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print a file for a new app, with what it may say
    New {
        /// Its name
        name: String,
        /// Its image
        #[arg(long, default_value = "REGISTRY/IMAGE:TAG")]
        image: String,
    },
    /// Print an app as a file that can be applied
    Show(Named),
    /// Check files without any cluster
    Lint {
        /// Files, or - for standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the JSON schema of an app's file
    Schema,
    /// Show what applying a file would change, or what others changed in an app's objects
    Diff {
        /// The app
        #[arg(required_unless_present = "file")]
        name: Option<String>,
        /// The file
        #[arg(short, long, conflicts_with = "name")]
        file: Option<PathBuf>,
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// Create an app from a file, or make it as the file says
    Apply {
        /// The file, or - for standard input
        #[arg(short, long)]
        file: PathBuf,
        #[arg(short, long)]
        namespace: Option<String>,
        /// The commit that its image was built from
        #[arg(long)]
        commit: Option<String>,
        /// Why, in a sentence
        #[arg(long)]
        cause: Option<String>,
        /// Who asks for it [default: you]
        #[arg(long)]
        author: Option<String>,
    },
    /// Remove an app with all that it stands for
    Delete(Named),
    /// List the versions of an app
    History(Named),
}

#[derive(clap::Args, Debug)]
struct Named {
    /// The app
    name: String,
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// Does what the command line says.
///
/// # Errors
/// A file that is wrong, a cluster that does not answer or refuses.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    match options.command {
        Command::New { name, image } => {
            print!("{}", template(&name, &image)?);
            Ok(())
        }
        Command::Lint { files } => check(&files),
        Command::Schema => {
            println!("{}", serde_json::to_string_pretty(&lint::schema())?);
            Ok(())
        }
        Command::Show(named) => show(global, &named).await,
        Command::Diff { name: Some(name), namespace, .. } => {
            drifted(global, &name, namespace.as_deref().unwrap_or("default")).await
        }
        Command::Diff { file: Some(file), namespace, .. } => {
            changes(global, &file, namespace.as_deref()).await
        }
        Command::Diff { .. } => anyhow::bail!("an app or --file is needed"),
        Command::Apply { file, namespace, commit, cause, author } => {
            let why = Why { commit, cause, author };
            apply(global, &file, namespace.as_deref(), why).await
        }
        Command::Delete(named) => delete(global, &named).await,
        Command::History(named) => history(global, &named).await,
    }
}

fn template(name: &str, image: &str) -> Result<String> {
    berth_api::names::dns1035_label(name).map_err(|_| {
        let message = format!("`{name}` is no app's name");
        Failure::new(Exit::Failed, message, "1 to 63 lower-case letters, digits and -")
    })?;
    Ok(include_str!("app/new.yaml").replace("{{name}}", name).replace("{{image}}", image))
}

fn check(files: &[PathBuf]) -> Result<()> {
    let mut faults = 0;
    for file in files {
        let text = read(file)?;
        for fault in lint::check(&text) {
            println!("{}:{fault}", file.display());
            faults += 1;
        }
    }
    if faults > 0 {
        let message = format!("{faults} {}", if faults == 1 { "fault" } else { "faults" });
        return Err(
            Failure::new(Exit::Failed, message, "`berth app schema` has every field").into()
        );
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    } else {
        text =
            std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    }
    Ok(text)
}

/// The App in a file, judged before anybody is asked.
fn parse(file: &Path, namespace: Option<&str>) -> Result<Value> {
    let text = read(file)?;
    if let Some(fault) = lint::check(&text).first() {
        let message = format!("{}:{fault}", file.display());
        return Err(Failure::new(Exit::Failed, message, "`berth app lint` shows all").into());
    }
    let mut app: Value = serde_saphyr::from_str(&text)?;
    if let Some(namespace) = namespace {
        app["metadata"]["namespace"] = json!(namespace);
    } else if app["metadata"]["namespace"].is_null() {
        app["metadata"]["namespace"] = json!("default");
    }
    Ok(app)
}

fn api_of(client: &Client, app: &Value) -> (Api<App>, String) {
    let word = |key: &str| app["metadata"][key].as_str().unwrap_or_default().to_owned();
    (Api::namespaced(client.clone(), &word("namespace")), word("name"))
}

async fn show(global: &Global, named: &Named) -> Result<()> {
    let client = connect::client(global).await?;
    let api: Api<App> = Api::namespaced(client, &named.namespace);
    let app = api.get(&named.name).await?;
    let labels = app.metadata.labels.clone().unwrap_or_default();
    let mut shown = json!({
        "apiVersion": "berth.dev/v1",
        "kind": "App",
        "metadata": { "name": app.name_any(), "namespace": app.namespace() },
        "spec": app.spec,
    });
    if !labels.is_empty() {
        shown["metadata"]["labels"] = json!(labels);
    }
    let text = serde_saphyr::to_string(&shown)?;
    global.output.print(&shown, || text)
}

/// Field by field: what others did to the App's objects.
async fn drifted(global: &Global, name: &str, namespace: &str) -> Result<()> {
    let client = connect::client(global).await?;
    let app = Api::<App>::namespaced(client, namespace).get(name).await?;
    let all = app.status.map(|status| status.drift).unwrap_or_default();
    global.output.print(&json!(all), || {
        if all.is_empty() {
            return format!("nobody else changed what {name} stands for\n");
        }
        let row = |one: &berth_api::app::Drifted| {
            let found = if one.found.is_empty() { "(nothing)" } else { &one.found };
            let cells = [&one.at, &one.object, &one.field, &one.wanted, found, &one.outcome];
            cells.map(str::to_owned).to_vec()
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        columns(&["WHEN", "OBJECT", "FIELD", "APP SAYS", "WAS", "OUTCOME"], &rows)
    })
}

/// Field by field: what applying the file would change, by the server's own judgement.
async fn changes(global: &Global, file: &Path, namespace: Option<&str>) -> Result<()> {
    let app = parse(file, namespace)?;
    let client = connect::client(global).await?;
    let (api, name) = api_of(&client, &app);
    let mut params = PatchParams::apply(MANAGER).force();
    params.dry_run = true;
    let then = api.patch(&name, &params, &Patch::Apply(&app)).await.map_err(refused)?;
    let now = api.get_opt(&name).await?;
    let before = now.as_ref().map(|app| json!({ "spec": app.spec })).unwrap_or(json!({}));
    let after = json!({ "spec": then.spec });
    // Both ways: what comes or changes, and what goes.
    let mut rows: Vec<Vec<String>> = drift::between(&after, &before)
        .iter()
        .map(|one| vec![one.field(), brief(&one.found), brief(&one.wanted)])
        .collect();
    let gone = drift::between(&before, &after).into_iter().filter(|one| one.found.is_null());
    rows.extend(gone.map(|one| vec![one.field(), brief(&one.wanted), "-".to_owned()]));
    let shown: Vec<Value> =
        rows.iter().map(|row| json!({ "field": row[0], "now": row[1], "then": row[2] })).collect();
    global.output.print(&shown, || {
        if rows.is_empty() {
            return format!("{name} is as {} says\n", file.display());
        }
        columns(&["FIELD", "NOW", "THEN"], &rows)
    })
}

fn brief(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { value.to_string() }
}

fn refused(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => Failure::new(Exit::Failed, status.message.clone(), "").into(),
        other => other.into(),
    }
}

/// What a release tells of its App.
pub struct Why {
    /// The commit.
    pub commit: Option<String>,
    /// The reason.
    pub cause: Option<String>,
    /// The person.
    pub author: Option<String>,
}

impl Why {
    /// As an App's annotations; what is not said is removed, as it is not true of the new version.
    pub fn annotations(&self) -> Value {
        let author = self.author.clone().or_else(whoami);
        json!({
            release::COMMIT: self.commit,
            release::CAUSE: self.cause,
            release::AUTHOR: author,
        })
    }
}

/// Who works at this terminal; `sudo` remembers who asked.
pub fn whoami() -> Option<String> {
    ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

async fn apply(global: &Global, file: &Path, namespace: Option<&str>, why: Why) -> Result<()> {
    let mut app = parse(file, namespace)?;
    if let Value::Object(notes) = why.annotations() {
        for (key, value) in notes {
            if !value.is_null() {
                app["metadata"]["annotations"][key] = value;
            }
        }
    }
    let client = connect::client(global).await?;
    let (api, name) = api_of(&client, &app);
    let before = api.get_opt(&name).await?;
    let params = PatchParams::apply(MANAGER).force();
    let after = api.patch(&name, &params, &Patch::Apply(&app)).await.map_err(refused)?;
    let did = match &before {
        None => "created",
        Some(before) if before.spec == after.spec => "unchanged",
        Some(_) => "changed",
    };
    let shown = json!({ "name": name, "namespace": after.namespace(), "did": did });
    global.output.print(&shown, || format!("{name} {did}\n"))
}

async fn delete(global: &Global, named: &Named) -> Result<()> {
    let client = connect::client(global).await?;
    let api: Api<App> = Api::namespaced(client, &named.namespace);
    api.delete(&named.name, &DeleteParams::foreground()).await.map_err(refused)?;
    let shown = json!({ "name": named.name, "namespace": named.namespace, "did": "deleted" });
    global
        .output
        .print(&shown, || format!("{} is being removed with all it stands for\n", named.name))
}

async fn history(global: &Global, named: &Named) -> Result<()> {
    let client = connect::client(global).await?;
    let releases = releases(&client, &named.namespace, &named.name).await?;
    let now = jiff::Timestamp::now();
    let mut before: Option<&AppSpec> = None;
    let mut shown = Vec::new();
    for one in &releases {
        let changed = before.map_or_else(Vec::new, |before| fields(before, &one.spec.app_spec));
        before = Some(&one.spec.app_spec);
        let phase = one.status.as_ref().map(|status| status.phase).unwrap_or_default();
        let created = one.metadata.creation_timestamp.as_ref();
        shown.push(json!({
            "revision": one.spec.revision, "phase": phase, "image": one.spec.image,
            "author": one.spec.author, "commit": one.spec.commit, "cause": one.spec.cause,
            "changed": changed,
            "age": created.map_or_else(String::new, |at| age(at.0, now)),
        }));
    }
    global.output.print(&shown, || {
        let row = |one: &Value| {
            let word = |key: &str| match &one[key] {
                Value::String(text) => text.clone(),
                Value::Array(list) => {
                    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
                }
                Value::Null => String::new(),
                other => other.to_string(),
            };
            ["revision", "phase", "image", "author", "commit", "age", "changed"].map(word).to_vec()
        };
        let rows: Vec<_> = shown.iter().rev().map(row).collect();
        columns(&["REVISION", "PHASE", "IMAGE", "AUTHOR", "COMMIT", "AGE", "CHANGED"], &rows)
    })
}

/// The fields in which two versions differ.
fn fields(before: &AppSpec, after: &AppSpec) -> Vec<String> {
    let (before, after) = (json!(before), json!(after));
    let mut all: Vec<String> =
        drift::between(&after, &before).iter().map(drift::Difference::field).collect();
    let gone = drift::between(&before, &after).into_iter().filter(|one| one.found.is_null());
    all.extend(gone.map(|one| one.field()));
    all
}

/// The releases of an app, oldest first.
///
/// # Errors
/// Those of the call.
pub async fn releases(client: &Client, namespace: &str, app: &str) -> Result<Vec<Release>> {
    let api: Api<Release> = Api::namespaced(client.clone(), namespace);
    let listed = ListParams::default().labels(&format!("{}={app}", release::APP_LABEL));
    let mut all = api.list(&listed).await?.items;
    all.sort_by_key(|one| one.spec.revision);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_for_a_new_app_has_no_fault() {
        let text = template("hello", "hello:1").unwrap();
        let faults: Vec<_> = lint::check(&text).iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        assert!(template("Hello", "x").is_err());
    }
}
