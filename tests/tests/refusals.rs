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
    hostile_bodies_are_refused_and_memory_stays_bounded(&cluster)?;
    a_webhook_that_hangs_hinders_only_what_it_watches(&cluster)?;
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

/// Sends a body as it is; the code and the reason of the answer.
fn send(
    cluster: &Cluster,
    token: &str,
    kind: &str,
    path: &str,
    body: &[u8],
) -> Result<(u64, String)> {
    let mut command = std::process::Command::new("curl");
    let verb = if kind.contains("patch") { "PATCH" } else { "POST" };
    command.args(["-sk", "--max-time", "30", "-X", verb, "--data-binary", "@-"]);
    command.args(["-H", &format!("Content-Type: {kind}")]);
    command.args(["-H", &format!("Authorization: Bearer {token}"), "-H", "Expect:"]);
    command.arg(format!("https://{}/api/v1/namespaces/default/{path}", cluster.api()));
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut running = command.spawn()?;
    if let Some(mut input) = running.stdin.take() {
        // The server may answer before it has all.
        drop(input.write_all(body));
    }
    let said = running.wait_with_output()?.stdout;
    let status: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    Ok((status["code"].as_u64().unwrap_or_default(), reason))
}

fn hostile_bodies_are_refused_and_memory_stays_bounded(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "serviceaccount", "tester"])?;
    let bind = ["--clusterrole=cluster-admin", "--serviceaccount=default:tester"];
    cluster.kubectl(&[&["create", "clusterrolebinding", "tester"], bind.as_slice()].concat())?;
    let token = cluster.kubectl(&["create", "token", "tester"])?.out.trim().to_owned();
    cluster.kubectl(&["create", "configmap", "target"])?;

    let level = |name: char, below: char| {
        format!("{name}: &{name} [{}]\n", vec![format!("*{below}"); 9].join(","))
    };
    let bomb = ('b'..='z').zip('a'..).map(|(name, below)| level(name, below)).collect::<String>();
    let bomb = format!("a: &a [x]\n{bomb}");
    let grow = format!(r#"[{{"op":"add","path":"/x","value":["{}"]}}"#, "x".repeat(1000));
    let grow = grow + &r#",{"op":"copy","from":"/x","path":"/x/-"}"#.repeat(60) + "]";
    let empty = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a"}},"spec":{{"containers":[{}{{}}]}}}}"#,
        "{},".repeat(600_000)
    );
    let (deep, json) = ("[".repeat(1_000_000), "application/json");
    let apply = "configmaps/target?fieldManager=m";
    let patch = "application/json-patch+json";
    let cases: [(_, _, &[u8], _); 6] = [
        ("application/apply-patch+yaml", apply, bomb.as_bytes(), (400, "BadRequest")),
        (patch, "configmaps/target", grow.as_bytes(), (422, "Invalid")),
        (json, "pods", empty.as_bytes(), (400, "BadRequest")),
        (json, "configmaps", deep.as_bytes(), (400, "BadRequest")),
        (json, "configmaps", b"{\"data\":", (400, "BadRequest")),
        ("text/plain", "configmaps", b"{}", (415, "UnsupportedMediaType")),
    ];
    for (kind, path, body, (code, reason)) in cases {
        let found = send(cluster, &token, kind, path, body)?;
        assert_eq!(found, (code, reason.to_owned()), "{kind} to {path}");
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let body = empty.as_bytes();
            let token = &token;
            scope.spawn(move || drop(send(cluster, token, json, "pods", body)));
        }
        cluster.kubectl(&["get", "--raw", "/readyz"]).map(drop)
    })?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid()?))?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most: u64 = most.unwrap_or_default().trim().trim_end_matches(" kB").parse()?;
    assert!(most < 1024 * 1024, "the control plane took {most} KiB");
    Ok(())
}

fn a_webhook_that_hangs_hinders_only_what_it_watches(cluster: &Cluster) -> Result<()> {
    // Connections are taken by the system, and nobody ever says a word.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let port = silent.local_addr()?.port();
    cluster.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1\n\
         kind: ValidatingWebhookConfiguration\n\
         metadata: {{name: silent}}\n\
         webhooks:\n\
         - name: silent.berth.dev\n  \
           clientConfig: {{url: \"https://127.0.0.1:{port}/\"}}\n  \
           rules: [{{apiGroups: [\"\"], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}}]\n  \
           objectSelector: {{matchLabels: {{ask: silent}}}}\n  \
           timeoutSeconds: 1\n  failurePolicy: Fail\n  sideEffects: None\n  \
           admissionReviewVersions: [v1]\n"
    ))?;
    let map = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{ask: {name}}}}}\n"
        )
    };
    berth_tests::until("the webhook is asked", Duration::from_secs(20), || {
        let begun = Instant::now();
        let refused = cluster.apply(&map("silent")).map_or_else(
            |error| format!("{error:#}"),
            |_| {
                drop(cluster.kubectl(&["delete", "configmap", "silent"]));
                String::new()
            },
        );
        let in_time = begun.elapsed() < Duration::from_secs(10);
        in_time && refused.contains("failed calling webhook \"silent.berth.dev\"")
    })?;
    let begun = Instant::now();
    cluster.apply(&map("others"))?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    cluster.kubectl(&["delete", "validatingwebhookconfiguration", "silent"])?;
    Ok(())
}
