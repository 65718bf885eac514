//! `h2load`, a client of HTTP/2 that is not ours and asks for much at once.

use super::*;

/// Whether it is there; on CI it has to be.
fn has_h2load() -> bool {
    if std::process::Command::new("h2load").arg("--version").output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "h2load is missing");
    eprintln!("skipped: h2load is missing");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_sees_no_failed_request_over_tls_or_in_the_clear() {
    if !has_h2load() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Pod::start("one").await, Pod::rude("two").await);
    let (_, secret) = certificate(dir.path(), "cert.pem");
    let tls = json!({"tls": [{"hosts": ["tls.example"], "secretName": "cert"}]});
    let mut routes = snapshot(&[&one, &two], tls);
    routes.secrets = vec![Arc::new(serde_json::from_value(secret).unwrap())];
    let balancer = start(config(), Some(routes)).await;
    let body = dir.path().join("body");
    std::fs::write(&body, "b".repeat(10_000)).unwrap();
    let body = body.display().to_string();
    for (scheme, door) in [("https", balancer.config.https), ("http", balancer.config.http)] {
        // Without a body, and with one.
        for (count, more) in [(1000, &["/text"][..]), (200, &["/length", "-d", &body][..])] {
            let url = format!("{scheme}://tls.example:{}{}", door.port(), more[0]);
            let to = format!("--connect-to={door}");
            let done = Command::new("h2load")
                .args(["-n", &count.to_string(), "-c", "4", "-m", "20", &to])
                .args(&more[1..])
                .arg(&url)
                .output();
            let done = tokio::time::timeout(SOON, done).await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&done.stdout);
            let all = format!(
                "requests: {count} total, {count} started, {count} done, {count} succeeded, \
                 0 failed, 0 errored, 0 timeout"
            );
            assert!(text.contains(&all), "{url}: {text}");
            assert!(text.contains(&format!("status codes: {count} 2xx, 0 3xx")), "{text}");
            assert!(text.contains("Application protocol: h2"), "{text}");
        }
    }
    balancer.stop().await;
}
