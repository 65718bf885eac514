//! Certificates from a real authority (pebble, Let's Encrypt's own for tests), which asks this
//! balancer for its proof: the controllers, an API server and the balancer in this process.

use std::process::Stdio;

use berth_controllers::acme::{Authority, Config as Acme};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Api, ListParams};
use tokio::process::Child;

use super::cluster::{create, eventually};
use super::*;

/// Of certificates, so that one is renewed while the test looks on.
const LIFETIME: u32 = 24;

struct Pebble {
    directory: String,
    management: String,
    root: PathBuf,
    _processes: [Child; 2],
    dir: tempfile::TempDir,
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn curl(arguments: &[&str]) -> String {
    let done = Command::new("curl").arg("-s").args(arguments).output().await.unwrap();
    String::from_utf8(done.stdout).unwrap()
}

impl Pebble {
    /// An authority that looks for hosts at `http`, all of them on this machine but `away.test`.
    async fn start(http: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(path("own.pem"), own.cert.pem()).unwrap();
        std::fs::write(path("own.key"), own.signing_key.serialize_pem()).unwrap();
        let (listen, management) = (free_port(), free_port());
        let (names, told) = (free_port(), free_port());
        let config = json!({"pebble": {
            "listenAddress": listen.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": path("own.pem"), "privateKey": path("own.key"),
            "httpPort": http.port(), "tlsPort": 1, "ocspResponderURL": "",
            "externalAccountBindingRequired": true,
            "externalAccountMACKeys": {"our-kid": "c29tZXRoaW5nIHRoYXQgaXMgbG9uZyBlbm91Z2g"},
            "certificateValidityPeriod": LIFETIME}});
        std::fs::write(path("pebble.json"), config.to_string()).unwrap();
        let resolver = command("pebble-challtestsrv")
            .args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &names.to_string(), "-management", &told.to_string()])
            .spawn()
            .unwrap();
        let authority = command("pebble")
            .args(["-config", path("pebble.json").to_str().unwrap()])
            .args(["-dnsserver", &names.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .spawn()
            .unwrap();
        let management = format!("https://localhost:{}", management.port());
        let directory = format!("https://localhost:{}/dir", listen.port());
        eventually("pebble listens", async || !curl(&["-k", &directory]).await.is_empty()).await;
        let away = json!({"host": "away.test.", "addresses": ["127.0.0.9"]}).to_string();
        let url = format!("http://{told}/add-a");
        eventually("names are answered", async || {
            curl(&["-d", &away, "-o", "/dev/null", "-w", "%{http_code}", &url]).await == "200"
        })
        .await;
        let root = path("own.pem");
        Self { directory, management, root, _processes: [resolver, authority], dir }
    }

    fn authority(&self) -> Arc<Authority> {
        let key = berth_controllers::acme::external_key("c29tZXRoaW5nIHRoYXQgaXMgbG9uZyBlbm91Z2g");
        let config = Acme {
            directory: self.directory.clone(),
            email: Some("ops@web.test".into()),
            ca: Some(self.root.clone()),
            external: Some(("our-kid".into(), key.unwrap())),
        };
        Arc::new(Authority::new(config).unwrap())
    }

    /// Whom clients trust.
    async fn issuer(&self) -> PathBuf {
        let path = self.dir.path().join("issuer.pem");
        let url = format!("{}/roots/0", self.management);
        std::fs::write(&path, curl(&["-k", &url]).await).unwrap();
        path
    }
}

fn ingress(name: &str, hosts: &[&str]) -> Value {
    let backend = json!({"service": {"name": "web", "port": {"name": "http"}}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
    let rules: Vec<_> =
        hosts.iter().map(|host| json!({"host": host, "http": {"paths": [path]}})).collect();
    json!({"metadata": {"name": name, "annotations": {"berth.dev/acme": "true"}},
        "spec": {"ingressClassName": "berth", "rules": rules,
            "tls": [{"secretName": name, "hosts": hosts}]}})
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods)] // joined below
async fn hosts_that_ask_get_certificates_from_an_acme_authority_and_new_ones_in_time() {
    if Command::new("pebble").arg("-h").output().await.is_err() {
        assert!(std::env::var_os("CI").is_none(), "pebble is missing");
        eprintln!("skipped: there is no pebble");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let client = super::cluster::serve(dir.path(), &tasks).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": "berth-system"}})).await;
    // Without endpoints: a route that is known answers 503.
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let ports = json!([{"name": "http", "port": 80}]);
    create(&services, json!({"metadata": {"name": "web"}, "spec": {"ports": ports}})).await;

    let config = config();
    let pebble = Pebble::start(config.http).await;
    let (https, its_tasks, its_client) = (config.https, tasks.clone(), client.clone());
    let http = config.http;
    let (_sites, sites) = watch::channel(l7::Sites::default());
    let running = tokio::spawn(async move { l7::run(config, its_client, sites, &its_tasks).await });
    let controllers = berth_controllers::Config {
        acme: Some(pebble.authority()),
        ..berth_controllers::Config::new(String::new())
    };
    berth_controllers::start(client.clone(), controllers, &tasks);

    let ingresses: Api<Ingress> = Api::namespaced(client.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let theirs = json!({"metadata": {"name": "theirs"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": "", "tls.key": ""}});
    create(&secrets, theirs).await;
    create(&ingresses, ingress("web", &["web.test", "www.web.test"])).await;
    create(&ingresses, ingress("away", &["away.test"])).await;
    create(&ingresses, ingress("theirs", &["theirs.test"])).await;
    create(&ingresses, ingress("wild", &["*.wild.test"])).await;

    let shown = async |name: &str| {
        let secret = secrets.get_opt(name).await.unwrap()?;
        Some(String::from_utf8(secret.data?.remove("tls.crt")?.0).unwrap())
    };
    eventually("the certificate is there", async || shown("web").await.is_some()).await;
    let first = shown("web").await.unwrap();
    let issuer = pebble.issuer().await;
    for host in ["web.test", "www.web.test"] {
        let at = format!("{host}:{}:127.0.0.1", https.port());
        let url = format!("https://{host}:{}/", https.port());
        let root = issuer.to_str().unwrap();
        eventually("clients trust it", async || {
            let shown = ["-o", "/dev/null", "-w", "%{http_code}"];
            let asked = ["--cacert", root, "--resolve", &at, &url];
            curl(&[&shown[..], &asked].concat()).await == "503"
        })
        .await;
    }
    eventually("it is renewed in time", async || shown("web").await.unwrap() != first).await;

    // What cannot be proven is said, and tried later; the others have theirs.
    let notes: Api<ConfigMap> = Api::namespaced(client.clone(), "berth-system");
    eventually("the failure is noted", async || {
        let notes = notes.get_opt("berth-acme").await.unwrap().and_then(|notes| notes.data);
        notes.is_some_and(|notes| notes.contains_key("default.away"))
    })
    .await;
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let said = async |name: &str, part: &str| {
        let all = events.list(&ListParams::default()).await.unwrap();
        all.items.iter().any(|event| {
            event.involved_object.name.as_deref() == Some(name)
                && event.reason.as_deref() == Some("CertificateFailed")
                && event.message.as_ref().is_some_and(|message| message.contains(part))
        })
    };
    for (name, part) in [("away", "away.test"), ("theirs", "it stays"), ("wild", "wildcard")] {
        eventually(name, async || said(name, part).await).await;
    }
    assert_eq!(shown("theirs").await.as_deref(), Some(""));
    assert_eq!((shown("away").await, shown("wild").await), (None, None));

    // Only hosts that ask are answered for, and only such tokens as there are.
    let ask = async |host: &str, token: &str| {
        let path = format!("/.well-known/acme-challenge/{token}");
        Client::new(http).get(host, &path).await.unwrap()
    };
    let proof = ask("web.test", "abc-_9").await;
    assert!(proof.status == 200 && proof.body.starts_with("abc-_9."), "{}", proof.body);
    assert_eq!(ask("other.test", "abc").await.status, 404);
    assert_eq!(ask("web.test", "a.b").await.status, 503, "no token: the pods'");
    tasks.cancel();
    running.await.unwrap().unwrap();
}
