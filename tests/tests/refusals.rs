//! What bad input gets: one clear line, a code, and nothing half done.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::Result;
use berth_tests::{Cluster, can_run_clusters};

#[test]
fn a_taken_port_a_newer_directory_and_a_second_up_are_refused_before_anything_starts() -> Result<()>
{
    if !can_run_clusters("refusals of berth up") {
        return Ok(());
    }
    let cluster = Cluster::new()?;
    let words: Vec<&str> =
        std::iter::once("up").chain(cluster.options().iter().map(String::as_str)).collect();

    let taken = TcpListener::bind(("0.0.0.0", cluster.api().port()))?;
    let refused = cluster.try_berth(&words)?;
    let port = cluster.api().port().to_string();
    let me = format!("(process {})", std::process::id());
    assert_eq!(refused.code, 4, "{}", refused.err);
    for expected in [port.as_str(), &me, "--api-port"] {
        assert!(refused.err.contains(expected), "lacks {expected}: {}", refused.err);
    }
    drop(taken);
    assert!(!cluster.dir().join("containerd").exists(), "nothing was started");

    std::fs::write(cluster.dir().join("version"), "99\n")?;
    let refused = cluster.try_berth(&words)?;
    assert!(refused.err.contains("newer berth"), "{}", refused.err);
    assert_ne!(refused.code, 0);
    std::fs::remove_file(cluster.dir().join("version"))?;

    cluster.start()?;
    let refused = cluster.try_berth(&words)?;
    assert_eq!(refused.code, 4, "{}", refused.err);
    assert!(refused.err.contains("already up"), "{}", refused.err);
    Ok(())
}

#[test]
fn bad_requests_are_refused_by_name_and_the_server_keeps_serving() -> Result<()> {
    if !can_run_clusters("refusals of the API server") {
        return Ok(());
    }
    let cluster = Cluster::up()?;
    a_manifest_with_wrong_fields_names_them(&cluster)?;
    a_missing_image_is_told_within_half_a_minute(&cluster)?;
    a_body_over_the_limit_is_refused(&cluster)?;
    a_client_that_says_nothing_hinders_nobody(&cluster)?;
    a_made_up_token_is_refused(&cluster)?;
    Ok(())
}

fn a_manifest_with_wrong_fields_names_them(cluster: &Cluster) -> Result<()> {
    let path = cluster.dir().join("wrong.yaml");
    for (field, expected) in [
        ("spec: {replica: 2}", "replica"),
        ("spec: {replicas: two}", "replicas"),
        ("spec: {replicas: 1, template: {spec: {containers: [{name: A_B, image: i}]}}}", "A_B"),
    ] {
        let text =
            format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: wrong}}\n{field}\n");
        std::fs::write(&path, text)?;
        let path = path.display().to_string();
        let refused = cluster.try_kubectl(&["create", "--validate=strict", "-f", &path])?;
        assert_ne!(refused.code, 0, "{field} was taken");
        assert!(refused.err.contains(expected), "lacks {expected}: {}", refused.err);
    }
    Ok(())
}

fn a_missing_image_is_told_within_half_a_minute(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let registry = cluster.options().windows(2).find(|pair| pair[0] == "--registry-port");
    let image = format!("127.0.0.1:{}/no/such:1", registry.map_or("0", |pair| pair[1].as_str()));
    let failed = cluster.try_berth(&["deploy", "--image", &image, "--name", "absent"])?;
    assert_eq!(failed.code, 6, "{}", failed.err);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(
        failed.err.contains("ErrImagePull") || failed.err.contains("ImagePullBackOff"),
        "{}",
        failed.err
    );
    Ok(())
}

fn a_body_over_the_limit_is_refused(cluster: &Cluster) -> Result<()> {
    let path = cluster.dir().join("big.json");
    let big = "x".repeat(3 * 1024 * 1024 + 1);
    let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "big"}, "data": {"big": big}});
    std::fs::write(&path, object.to_string())?;
    let words = ["create", "--raw", "/api/v1/namespaces/default/configmaps", "-f"];
    let path = path.display().to_string();
    let refused = cluster.try_kubectl(&[words.as_slice(), &[path.as_str()]].concat())?;
    assert_ne!(refused.code, 0);
    assert!(refused.err.to_lowercase().contains("too large"), "{}", refused.err);
    cluster.kubectl(&["get", "--raw", "/readyz"])?;
    Ok(())
}

fn a_client_that_says_nothing_hinders_nobody(cluster: &Cluster) -> Result<()> {
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(std::net::TcpStream::connect(cluster.api())?);
    }
    silent[0].write_all(b"GET / HTTP/1.1\r\n\r\n")?; // plain HTTP to a TLS port
    let mut answer = Vec::new();
    silent[0].set_read_timeout(Some(Duration::from_secs(15)))?;
    drop(silent[0].read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "plain HTTP is not served");
    cluster.kubectl(&["get", "--raw", "/readyz"])?;
    Ok(())
}

fn a_made_up_token_is_refused(cluster: &Cluster) -> Result<()> {
    let server = format!("https://{}", cluster.api());
    let mut command = std::process::Command::new("kubectl");
    command.args(["--kubeconfig", "/dev/null", "--server", &server, "--insecure-skip-tls-verify"]);
    let ran = command.args(["--token", "made.up.token", "get", "pods"]).output()?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success());
    assert!(said.contains("Unauthorized") || said.contains("must be logged in"), "{said}");
    Ok(())
}
