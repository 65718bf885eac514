//! What a site says of its own DNS and balancers: read from its ConfigMaps while they serve; the
//! servers asked in their pods; a server of one's own beside them.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_tests::{Cluster, can_run_clusters, free_ports, get, until};
use serde_json::Value;

const NAME: &str = "www.corp.example";
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_sites_settings_reach_its_dns_and_its_balancers() -> Result<()> {
    if !can_run_clusters("a site's settings") {
        return Ok(());
    }
    let cluster = Cluster::up()?;
    let dir = tempfile::tempdir()?;
    let own = Own::start(&cluster, dir.path())?;
    own.answers_and_tells(&cluster)?;
    names_under_a_suffix_are_asked_of_it(&cluster, &own)?;
    all_servers_are_asked_at_once(&cluster)?;
    settings_that_are_no_settings_change_nothing(&cluster)?;
    balancers_log_as_they_are_told(&cluster)
}

/// A server of zone files alone.
struct Own {
    process: Child,
    server: String,
    control: String,
}

impl Own {
    fn start(cluster: &Cluster, dir: &Path) -> Result<Self> {
        let [port, health] = free_ports()?;
        let (zone, config) = (dir.join("corp.zone"), dir.join("dns.yaml"));
        let (server, control) = (format!("127.0.0.1:{port}"), dir.join("control"));
        let text = "$ORIGIN corp.example.\n$TTL 60\n@ SOA ns a 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n\
                    www A 192.0.2.80\n";
        std::fs::write(&zone, text)?;
        let check = ["dns", "check", &zone.display().to_string()];
        cluster.berth(&check)?;
        let bad = dir.join("bad.zone");
        std::fs::write(&bad, text.replace("192.0.2.80", "192.0.2.800"))?;
        let refused = cluster.try_berth(&["dns", "check", &bad.display().to_string()])?;
        ensure!(refused.code == 1 && refused.out.contains("bad.zone:6:"), "{}", refused.out);

        let said = format!("clusters: []\nzones: [{{file: {}}}]\n", zone.display());
        std::fs::write(&config, said)?;
        let process = cluster
            .command()
            .args(["dns", "--listen", &server, "--health", &format!("127.0.0.1:{health}")])
            .arg("--config")
            .arg(&config)
            .arg("--control")
            .arg(&control)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let own = Self { process, server, control: control.display().to_string() };
        until("a server of one's own answers", PATIENCE, || {
            own.address(cluster).is_ok_and(|found| found == "192.0.2.80")
        })?;
        Ok(own)
    }

    fn address(&self, cluster: &Cluster) -> Result<String> {
        address(cluster, &self.server)
    }

    fn answers_and_tells(&self, cluster: &Cluster) -> Result<()> {
        for _ in 0..100 {
            self.address(cluster)?;
        }
        let words = ["dns", "top", "--format", "json", "--control", &self.control];
        let top: Value = serde_json::from_str(&cluster.berth(&words)?.out)?;
        ensure!(top["names"][0]["what"] == "www.corp.example.", "{top}");
        for verb in ["cache", "flush", "reload"] {
            cluster.berth(&["dns", verb, "--control", &self.control])?;
        }
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What `server` says is the name's address.
fn address(cluster: &Cluster, server: &str) -> Result<String> {
    let words = ["dns", "query", NAME, "--server", server, "--format", "json"];
    let said: Value = serde_json::from_str(&cluster.berth(&words)?.out)?;
    let address = said["answers"][0]["data"].as_str().context("an address")?;
    Ok(address.to_owned())
}

/// That of the cluster's DNS.
fn clusters_dns(cluster: &Cluster) -> Result<String> {
    let path = "jsonpath={.spec.clusterIP}";
    let ip = cluster.kubectl(&["-n", "kube-system", "get", "service", "kube-dns", "-o", path])?.out;
    Ok(format!("{ip}:53"))
}

fn settings(cluster: &Cluster, yaml: &str) -> Result<()> {
    let map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "berth-dns-config", "namespace": "kube-system" },
        "data": { "dns.yaml": yaml },
    });
    cluster.apply(&map.to_string())?;
    Ok(())
}

fn names_under_a_suffix_are_asked_of_it(cluster: &Cluster, own: &Own) -> Result<()> {
    settings(cluster, &format!("forward: {{corp.example: ['{}']}}\n", own.server))?;
    let dns = clusters_dns(cluster)?;
    until("the cluster's DNS forwards to it", PATIENCE, || {
        address(cluster, &dns).is_ok_and(|found| found == "192.0.2.80")
    })?;
    Ok(())
}

fn all_servers_are_asked_at_once(cluster: &Cluster) -> Result<()> {
    let kept: Value = serde_json::from_str(&cluster.berth(&["dns", "cache"])?.out)?;
    let servers: Vec<&String> = kept.as_object().context("by server")?.keys().collect();
    ensure!(servers.len() == 2, "two servers, in one pod: {servers:?}");
    ensure!(servers.iter().all(|server| server.starts_with("berth-dns-")), "{servers:?}");
    cluster.berth(&["dns", "flush"])?;
    cluster.berth(&["dns", "reload"])?;
    let table = cluster.berth(&["dns", "top"])?.out;
    ensure!(table.contains("QUERIES") && table.contains("CLIENT"), "{table}");
    Ok(())
}

fn settings_that_are_no_settings_change_nothing(cluster: &Cluster) -> Result<()> {
    settings(cluster, "forward: [what is this\n")?;
    let logs = ["-n", "kube-system", "logs", "deploy/berth-dns", "-c", "dns-0"];
    until("it says that it does not take them", PATIENCE, || {
        cluster.kubectl(&logs).is_ok_and(|log| log.out.contains("settings not taken"))
    })?;
    ensure!(address(cluster, &clusters_dns(cluster)?)? == "192.0.2.80");
    let refused = cluster.try_berth(&["dns", "reload"])?;
    ensure!(refused.code == 1, "{}", refused.out);
    Ok(())
}

fn balancers_log_as_they_are_told(cluster: &Cluster) -> Result<()> {
    let map = ["create", "configmap", "berth-balancer-config", "--from-literal=BERTH_ACCESS_LOG=1"];
    cluster.kubectl(&[&["-n", "berth-system"][..], &map].concat())?;
    cluster.kubectl(&["-n", "berth-system", "rollout", "restart", "deployment/berth-balancer"])?;
    let status = ["rollout", "status", "deployment/berth-balancer", "--timeout=120s"];
    cluster.kubectl(&[&["-n", "berth-system"][..], &status].concat())?;
    let logs = ["-n", "berth-system", "logs", "deploy/berth-balancer", "--all-containers"];
    until("a request is in the log", PATIENCE, || {
        let asked = get(cluster.http(), "nobody.example", "/logged");
        let log = cluster.kubectl(&logs);
        asked.is_ok() && log.is_ok_and(|log| log.out.contains("\"path\":\"/logged\""))
    })?;
    Ok(())
}
