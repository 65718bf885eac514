//! The console of a whole cluster, before people and attackers in a real browser: each page and
//! each story of `console/stories`, and what stands behind when the control plane is gone.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_apiserver::{Pki, Sans};
use berth_tests::{Cluster, can_run_clusters, root, until};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "said to nobody else";
const CHROMIUM: &str = "/usr/bin/chromium";

#[test]
fn people_find_their_way_and_attackers_do_not() -> Result<()> {
    if !can_run_clusters("the console in a browser") {
        return Ok(());
    }
    let cluster = Cluster::new()?.with_console();
    let provider = Provider::new(cluster.console().port())?;
    let cluster = cluster.told("--console-oidc", &provider.file().display().to_string());
    let said = cluster.start()?;
    let url = format!("https://localhost:{}", cluster.console().port());
    ensure!(said.contains(&url), "berth up says where the console is:\n{said}");
    let first = "berth console account add admin --group berth:admins";
    ensure!(said.contains(first), "and how to get in:\n{said}");

    let account = ["console", "account", "add"];
    let admin = [&account[..], &["admin", "--group", "berth:admins", "--generate"]].concat();
    let eve = [&account[..], &["eve", "--generate"]].concat();
    let people = json!({
        "admin": cluster.berth(&admin)?.out.trim(),
        "eve": cluster.berth(&eve)?.out.trim(),
    });
    let role = ["create", "rolebinding", "eve", "--clusterrole=berth:viewer", "--user=eve"];
    cluster.kubectl(&role)?;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--replicas", "2"])?;
    cluster.berth(&["images", "tools"])?;
    let image = cluster.field("deployment/hello", "{.spec.template.spec.containers[0].image}")?;
    cluster.apply(&include_str!("../fixtures/hostile.yaml").replace("IMAGE", &image))?;

    stories(&url, &people.to_string(), &image, &provider.said())?;
    it_outlives_the_control_plane_and_goes_when_told(&cluster)
}

/// Who names people beside the console: a stories' program that is not there yet.
struct Provider {
    dir: tempfile::TempDir,
    port: u16,
}

impl Provider {
    /// Writes what the console at `console` is told of it, and the certificate that it will have.
    fn new(console: u16) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let [port] = berth_tests::free_ports()?;
        // It is for localhost, as any API server's.
        Pki::load_or_create(&dir.path().join("pki"), &Sans::default(), "provider")?;
        let provider = json!({
            "issuer": format!("https://localhost:{port}"), "client": "berth",
            "url": format!("https://localhost:{console}"), "secretFile": "secret",
            "authority": "pki/ca.crt", "roles": { "platform": "berth:viewers" },
        });
        std::fs::write(dir.path().join("secret"), SECRET)?;
        std::fs::write(dir.path().join("oidc.yaml"), provider.to_string())?;
        Ok(Self { dir, port })
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("oidc.yaml")
    }

    fn said(&self) -> String {
        let file = |name: &str| self.dir.path().join(name);
        let (certificate, key) = (file("pki/apiserver.crt"), file("pki/apiserver.key"));
        json!({ "port": self.port, "certificate": certificate, "key": key, "secret": SECRET })
            .to_string()
    }
}

fn stories(url: &str, people: &str, image: &str, provider: &str) -> Result<()> {
    let packages = root().join("console/node_modules");
    let missing = [packages.join("playwright-core"), CHROMIUM.into()];
    if let Some(missing) = missing.iter().find(|path| !path.exists()) {
        let what = format!("{} is missing: ./dev test installs it", missing.display());
        ensure!(std::env::var_os("CI").is_none(), "{what}");
        eprintln!("skipped: the console's stories: {what}");
        return Ok(());
    }
    let told = Command::new("node")
        .arg("console/stories/main.mjs")
        .args(std::env::var_os("BERTH_STORIES"))
        .current_dir(root())
        .env("BERTH_CONSOLE", url)
        .env("BERTH_PEOPLE", people)
        .env("BERTH_IMAGE", image)
        .env("BERTH_PROVIDER", provider)
        .env("CHROMIUM", CHROMIUM)
        .output()
        .context("running node")?;
    eprint!("{}", String::from_utf8_lossy(&told.stdout));
    ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    Ok(())
}

fn it_outlives_the_control_plane_and_goes_when_told(cluster: &Cluster) -> Result<()> {
    let health = || -> Result<String> {
        let url = format!("https://localhost:{}/healthz", cluster.console().port());
        let authority = cluster.dir().join("pki/ca.crt");
        let words = ["--silent", "--max-time", "5", "--cacert"];
        let ran = Command::new("curl").args(words).arg(authority).arg(url).output()?;
        Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let pod = || {
        let path = "{.items[0].metadata.uid} {.items[0].status.containerStatuses[0].restartCount}";
        let label = "app.kubernetes.io/name=berth-console";
        let path = format!("jsonpath={path}");
        let words = ["get", "pods", "-n", "berth-system", "-l", label, "-o", &path];
        cluster.kubectl(&words).map(|ran| ran.out)
    };
    let before = pod()?;
    kill(cluster.pid()?)?;
    assert_eq!(health()?, "ok", "with a certificate of the cluster's own authority");
    let said = cluster.start()?;
    ensure!(!said.contains("account add"), "there are accounts:\n{said}");
    assert_eq!(pod()?, before, "the same process");

    kill(cluster.pid()?)?;
    let mut words = vec!["up", "--detach"];
    words.extend(cluster.options().iter().map(String::as_str));
    let at = words.iter().position(|word| *word == "--console").context("it was on")?;
    words[at + 1] = "off";
    cluster.berth(&words)?;
    until("the console is gone", PATIENCE, || health().is_ok_and(|said| said.is_empty()))?;
    let role = cluster.try_kubectl(&["get", "clusterrolebinding", "berth:console"])?;
    assert_ne!(role.code, 0, "nobody may impersonate any more: {}", role.out);
    Ok(())
}

fn kill(pid: i32) -> Result<()> {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    ensure!(status.success(), "process {pid} cannot be killed");
    let gone = || !std::path::Path::new("/proc").join(pid.to_string()).exists();
    until("the control plane is gone", PATIENCE, gone)?;
    Ok(())
}
