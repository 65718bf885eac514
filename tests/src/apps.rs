//! An App under load, and two versions of it: the ground on which releases are tried.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::load::{Load, Report, get_with};
use crate::{Cluster, Place, Watched, root, until};

/// Where the App `svc` answers.
pub const HOST: &str = "svc.apps.berth.local";
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// Requests a second that no release may lose one of.
pub const RATE: u32 = 200;

/// A cluster with an App, `svc` unless told otherwise, that there are two images of.
#[derive(Debug)]
pub struct Ground<P = Cluster> {
    /// The cluster.
    pub cluster: P,
    /// The App's name.
    pub app: String,
    /// How many instances it has.
    pub replicas: usize,
    /// What it says at all times beside image, strategy and the like.
    pub more: Value,
    /// Of versions that answer `one …` and `two …`.
    pub images: [String; 2],
    /// Of a version that answers 500 to 40 per cent of the requests.
    pub failing: String,
    scratch: tempfile::TempDir,
}

impl Ground {
    /// Starts the cluster and builds the images; nothing of `svc` runs yet.
    ///
    /// # Errors
    /// What `berth up` or `berth deploy` said.
    pub fn start() -> Result<Self> {
        let cluster = Cluster::up()?;
        // Builds the example's program, of which both images are made.
        cluster.berth(&["deploy", "examples/hello", "--name", "built", "--no-wait"])?;
        let scratch = tempfile::tempdir()?;
        let mut images = Vec::new();
        for (word, fails) in [("one", 0), ("two", 0), ("bad", 40)] {
            let dir = scratch.path().join(word);
            std::fs::create_dir(&dir)?;
            let program = root().join("examples/hello/target/release/hello");
            let file = format!(
                "entrypoint = [\"/bin/hello\"]\nport = 8080\nhealth = \"/healthz\"\n[files]\n\
                 \"{}\" = \"/bin/hello\"\n[env]\nGREETING = \"{word}\"\nFAILS = \"{fails}\"\n",
                program.display()
            );
            std::fs::write(dir.join("berth.toml"), file)?;
            let dir = dir.display().to_string();
            let words = ["deploy", &dir, "--replicas", "0", "--no-wait", "-o", "json"];
            let said: Value = serde_json::from_str(&cluster.berth(&words)?.out)?;
            images.push(said["image"].as_str().context("an image")?.to_owned());
        }
        let failing = images.pop().context("three images")?;
        let images = images.try_into().map_err(|_| anyhow::anyhow!("two images"))?;
        Self::on(cluster, images, failing)
    }
}

impl<P: Place> Ground<P> {
    /// An App on a cluster that has these images.
    ///
    /// # Errors
    /// When it has no directory.
    pub fn on(cluster: P, images: [String; 2], failing: String) -> Result<Self> {
        let (app, replicas, more) = ("svc".to_owned(), 4, json!({}));
        Ok(Self { cluster, app, replicas, more, images, failing, scratch: tempfile::tempdir()? })
    }

    /// Another App with the same images, beside this one.
    ///
    /// # Errors
    /// When it has no directory.
    pub fn beside(&self, app: &str, replicas: usize, more: Value) -> Result<Ground<&P>> {
        let (images, failing) = (self.images.clone(), self.failing.clone());
        let (cluster, app, scratch) = (&self.cluster, app.to_owned(), tempfile::tempdir()?);
        Ok(Ground { cluster, app, replicas, more, images, failing, scratch })
    }

    /// Where the App answers.
    pub fn host(&self) -> String {
        format!("{}.apps.berth.local", self.app)
    }

    /// The lines of a JSONPath, one for each of the App's pods, sorted.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn pods(&self, path: &str) -> Result<Vec<String>> {
        let path = format!("jsonpath={{range .items[*]}}{path}{{\"\\n\"}}{{end}}");
        let named = format!("app.kubernetes.io/instance={}", self.app);
        let said = self.cluster.kubectl(&["get", "pods", "-l", &named, "-o", &path])?;
        let mut lines: Vec<String> = said.out.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }

    /// Makes the App be of this image and come this way.
    ///
    /// # Errors
    /// What `berth app apply` said.
    pub fn apply(&self, image: usize, strategy: &Value) -> Result<()> {
        self.apply_image(&self.images[image], strategy)
    }

    /// Makes it so, and has the release taken back when some instances are new.
    ///
    /// # Errors
    /// When it does not come that far, or not back.
    pub fn abort_half_way(&self, image: usize, strategy: &Value, revision: i64) -> Result<()> {
        self.apply(image, strategy)?;
        until("some are new", PATIENCE, || {
            self.release().is_ok_and(|release| {
                let at = release["status"]["at"].as_str().unwrap_or_default().to_owned();
                let some = |count| at.contains(&format!("({count}/{})", self.replicas));
                (1..self.replicas).any(some)
            })
        })?;
        self.steer("abort")?;
        self.comes_to("Aborted", revision)?;
        Ok(())
    }

    /// The same with any image.
    ///
    /// # Errors
    /// What `berth app apply` said.
    pub fn apply_image(&self, image: &str, strategy: &Value) -> Result<()> {
        self.apply_with(image, strategy, &json!({}))
    }

    /// The same, with more that the App says.
    ///
    /// # Errors
    /// What `berth app apply` said.
    pub fn apply_with(&self, image: &str, strategy: &Value, more: &Value) -> Result<()> {
        let mut spec = json!({
            "image": image, "replicas": self.replicas, "port": 8080,
            "health": { "path": "/healthz" }, "strategy": strategy,
            "resources": { "limits": { "cpu": "500m", "memory": "128Mi" } },
        });
        let always = self.more.as_object().into_iter().flatten();
        for (key, value) in always.chain(more.as_object().into_iter().flatten()) {
            spec[key] = value.clone();
        }
        if let Some(spec) = spec.as_object_mut().filter(|spec| spec.contains_key("scale")) {
            // The autoscaler's to say.
            spec.remove("replicas");
        }
        let app = json!({
            "apiVersion": "berth.dev/v1", "kind": "App", "metadata": { "name": self.app },
            "spec": spec,
        });
        let path = self.scratch.path().join("app.yaml");
        std::fs::write(&path, serde_json::to_string_pretty(&app)?)?;
        self.cluster.berth(&["app", "apply", "-f", &path.display().to_string()])?;
        Ok(())
    }

    /// The newest release: its spec and status.
    ///
    /// # Errors
    /// Where there is none.
    pub fn release(&self) -> Result<Value> {
        let words = ["release", "status", &self.app, "-o", "json"];
        Ok(serde_json::from_str(&self.cluster.berth(&words)?.out)?)
    }

    /// Pauses, promotes, aborts … the newest release.
    ///
    /// # Errors
    /// What `berth release` said.
    pub fn steer(&self, verb: &str) -> Result<()> {
        self.cluster.berth(&["release", verb, &self.app])?;
        Ok(())
    }

    /// Waits until the newest release, after `revision`, is in `phase`; its revision.
    ///
    /// # Errors
    /// When it does not come; with its status and the pods there are.
    pub fn comes_to(&self, phase: &str, revision: i64) -> Result<i64> {
        let mut last = Value::Null;
        let came = until(&format!("release is {phase}"), PATIENCE, || {
            last = self.release().unwrap_or_default();
            last["status"]["phase"] == phase
                && last["spec"]["revision"].as_i64().is_some_and(|is| is >= revision)
        });
        came.with_context(|| {
            let pods =
                self.cluster.kubectl(&["get", "pods,rs,deploy", "-o", "wide", "--show-labels"]);
            let pods = pods.map(|ran| ran.out).unwrap_or_default();
            format!("{}\n{pods}", last["status"])
        })?;
        last["spec"]["revision"].as_i64().context("a revision")
    }

    /// Which of the images answer, of so many requests.
    ///
    /// # Errors
    /// When one is not answered with 200.
    pub fn answers(&self, host: &str, count: usize) -> Result<[usize; 2]> {
        self.answers_to(host, "", count)
    }

    /// The same of requests with these header lines, each with its end.
    ///
    /// # Errors
    /// When one is not answered with 200.
    pub fn answers_to(&self, host: &str, headers: &str, count: usize) -> Result<[usize; 2]> {
        let mut seen = [0, 0];
        for _ in 0..count {
            let (status, body) = get_with(self.cluster.http(), host, "/", headers)?;
            anyhow::ensure!(status == 200, "{host} answers {status} {body}");
            seen[usize::from(body.starts_with("two"))] += 1;
        }
        Ok(seen)
    }

    /// Does `what` under load, and finds that nothing was lost; as many instances as are wanted are
    /// there after it.
    ///
    /// # Errors
    /// What `what` said.
    ///
    /// # Panics
    /// When a request failed.
    pub fn loses_nothing(&self, name: &str, what: impl FnOnce() -> Result<()>) -> Result<()> {
        self.loses_nothing_with(name, usize::MAX, what)
    }

    /// The same, and there are never more than `most` pods that are to stay.
    ///
    /// # Errors
    /// What `what` said.
    ///
    /// # Panics
    /// When a request failed, or there were more pods.
    pub fn loses_nothing_with(
        &self,
        name: &str,
        most: usize,
        what: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let name = format!("{}, {name}", self.app);
        let watched = Watched::start(&self.cluster, &self.app)?;
        let load = Load::start(self.cluster.http(), &self.host(), RATE);
        let done = what();
        // What goes last takes its leave under load too.
        let settled = done.and_then(|()| {
            until("only what is wanted is there", PATIENCE, || {
                self.pods("{.metadata.name}").is_ok_and(|pods| pods.len() == self.replicas)
            })
        });
        // What was quick is watched for a second longer: what it broke may show late.
        let settled = settled
            .and_then(|_| until("the load has run", PATIENCE, || load.sent() > RATE as usize));
        let Report { sent, failures, .. } = load.stop();
        settled.with_context(|| name.clone())?;
        let were = watched.most();
        eprintln!("{name}: {} of {sent} requests failed, {were} pods at most", failures.len());
        assert!(failures.is_empty(), "{name}: {} of {sent}: {failures:#?}", failures.len());
        assert!(were <= most, "{name}: {were} pods at a time, {most} may be");
        Ok(())
    }
}
