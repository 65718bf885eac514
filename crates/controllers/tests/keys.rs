//! What is made with the cluster's keys, and shown to the API server over TLS: certificates that were
//! asked for and approved, and tokens that lie in secrets.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers fail like the test

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_apiserver::{ApiServer, Issuer, Pki, Sans, ServiceRange, Usage, User};
use berth_controllers::certificates::Use;
use berth_controllers::issue::Issue;
use berth_daemon::Tasks;
use berth_store::{Embedded, Options};
use http::Request;
use kube::Client;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What must come true does within this, or never.
const LIMIT: Duration = Duration::from_secs(40);
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

#[derive(Debug)]
struct Keys(Issuer);

impl Issue for Keys {
    fn certificate(&self, pem: &str, uses: &[Use], life: Duration) -> Result<String, String> {
        let usage = |one: &Use| match one {
            Use::ClientAuth => Usage::ClientAuth,
            Use::ServerAuth => Usage::ServerAuth,
            Use::DigitalSignature => Usage::DigitalSignature,
            Use::KeyEncipherment => Usage::KeyEncipherment,
        };
        let usages: Vec<Usage> = uses.iter().map(usage).collect();
        self.0.certificate(pem, &usages, life).map_err(|error| error.to_string())
    }

    fn account_token(&self, ns: &str, secret: &str, of: &str, uid: &str) -> Result<String, String> {
        self.0.account_token(ns, secret, of, uid).map_err(|error| error.to_string())
    }
}

struct Ground {
    admin: Client,
    kubeconfig: Kubeconfig,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl Ground {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let names = Sans { ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], dns: Vec::new() };
        let pki = Pki::load_or_create(&dir.path().join("pki"), &names, "node").unwrap();
        let store = Embedded::open(&dir.path().join("store"), Options::default()).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = berth_apiserver::Config {
            advertise: address,
            service_range: ServiceRange::new("10.88.0.0/16".parse().unwrap()).unwrap(),
            node_ports: 30000..=32767,
            pki: pki.clone(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let server = ApiServer::open(config, Arc::new(store), &tasks).await.unwrap();
        server.serve(listener, &tasks);
        let admin = server.client(User::new("admin", &["system:masters"]));
        let mut config = berth_controllers::Config::new(pki.ca_pem().to_owned());
        config.issuer = Some(Arc::new(Keys(server.issuer())));
        berth_controllers::start(admin.clone(), config, &tasks);
        let kubeconfig = Kubeconfig::from_yaml(&pki.kubeconfig(&format!("https://{address}")));
        Self { admin, kubeconfig: kubeconfig.unwrap(), tasks, _dir: dir }
    }

    /// A client over TLS that shows this and nothing else.
    async fn shows(&self, info: Value) -> Client {
        let mut kubeconfig = self.kubeconfig.clone();
        let info: AuthInfo = serde_json::from_value(info).unwrap();
        kubeconfig.auth_infos.iter_mut().for_each(|one| one.auth_info = Some(info.clone()));
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Client::try_from(config).unwrap()
    }

    async fn eventually(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = tokio::time::Instant::now();
        loop {
            let found = send(&self.admin, "GET", path, &Value::Null).await.unwrap_or_default();
            if holds(&found) {
                return found;
            }
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {path} is {found:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What came back, or the code and message of the refusal.
async fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Value, (u16, String)> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(body.to_string().into_bytes()).unwrap();
    match client.request(request).await {
        Ok(found) => Ok(found),
        Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
        Err(error) => panic!("{method} {path}: {error}"),
    }
}

async fn who(client: &Client) -> Result<Value, (u16, String)> {
    send(client, "POST", WHO, &json!({})).await.map(|found| found["status"]["userInfo"].clone())
}

/// A request for a certificate, and the key it is for.
fn ask(name: &str, signer: &str, user: &str, groups: &[&str]) -> (Value, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    groups.iter().for_each(|group| {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    });
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({
        "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem),
            "signerName": format!("kubernetes.io/{signer}"),
            "usages": ["client auth", "digital signature"],
            "expirationSeconds": 3600,
            "username": "somebody else",
        },
    });
    (body, key)
}

fn shown(request: &Value, key: &KeyPair) -> Value {
    json!({
        "client-certificate-data": request["status"]["certificate"],
        "client-key-data": STANDARD.encode(key.serialize_pem()),
    })
}

fn is_signed(request: &Value) -> bool {
    request["status"]["certificate"].is_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_request_becomes_a_certificate_that_lets_in() {
    let ground = Ground::start().await;
    let (body, key) = ask("ann", "kube-apiserver-client", "ann", &["devs"]);
    let made = send(&ground.admin, "POST", REQUESTS, &body).await.unwrap();
    assert_eq!(made["spec"]["username"], "admin", "whoever is told to ask");
    let path = format!("{REQUESTS}/ann");
    let approved = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "Test", "message": "by a test",
    }]}});
    let through_status = send(&ground.admin, "PATCH", &format!("{path}/status"), &approved).await;
    assert_eq!(through_status.unwrap_err().0, 422, "approval has a door of its own");
    send(&ground.admin, "PATCH", &format!("{path}/approval"), &approved).await.unwrap();
    let signed = ground.eventually(&path, is_signed).await;
    let ann = ground.shows(shown(&signed, &key)).await;
    let user = who(&ann).await.unwrap();
    assert_eq!((user["username"].as_str(), &user["groups"][0]), (Some("ann"), &json!("devs")));
    let denied = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
    let late = send(&ground.admin, "PATCH", &format!("{path}/approval"), &denied).await;
    assert_eq!(late.unwrap_err().0, 422);

    for group in ["system:masters", "system:berth:embedded-agent"] {
        let (body, _) = ask("root", "kube-apiserver-client", "ann", &["devs", group]);
        let (code, message) = send(&ground.admin, "POST", REQUESTS, &body).await.unwrap_err();
        assert_eq!(code, 403, "{message}");
        assert!(message.contains(&format!("{group} group is not allowed")), "{message}");
    }
    // Approved, but not what its signer signs.
    let (body, _) = ask("odd", "kube-apiserver-client-kubelet", "ann", &["devs"]);
    send(&ground.admin, "POST", REQUESTS, &body).await.unwrap();
    let path = format!("{REQUESTS}/odd");
    send(&ground.admin, "PATCH", &format!("{path}/approval"), &approved).await.unwrap();
    let failed = |request: &Value| request["status"]["conditions"][1]["type"] == "Failed";
    let odd = ground.eventually(&path, failed).await;
    assert_eq!(odd["status"]["conditions"][1]["reason"], "SignerValidationFailure");
    ground.tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approving_and_signing_need_rights_on_the_signer() {
    let ground = Ground::start().await;
    let (body, key) = ask("ann", "kube-apiserver-client", "ann", &["devs"]);
    send(&ground.admin, "POST", REQUESTS, &body).await.unwrap();
    let path = format!("{REQUESTS}/ann");
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
    send(&ground.admin, "PATCH", &format!("{path}/approval"), &approved).await.unwrap();
    let signed = ground.eventually(&path, is_signed).await;
    let ann = ground.shows(shown(&signed, &key)).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let mut rules = vec![json!({
        "apiGroups": ["certificates.k8s.io"], "verbs": ["*"],
        "resources": ["certificatesigningrequests", "certificatesigningrequests/approval"],
    })];
    let role = json!({"metadata": {"name": "asks"}, "rules": rules});
    send(&ground.admin, "POST", &format!("{rbac}/clusterroles"), &role).await.unwrap();
    let binding = json!({
        "metadata": {"name": "asks"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}],
        "roleRef": {"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": "asks"},
    });
    send(&ground.admin, "POST", &format!("{rbac}/clusterrolebindings"), &binding).await.unwrap();
    let (body, _) = ask("more", "kube-apiserver-client", "ann", &["more"]);
    let begun = tokio::time::Instant::now();
    while send(&ann, "POST", REQUESTS, &body).await.is_err() {
        assert!(begun.elapsed() < LIMIT, "the binding is not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let approval = format!("{REQUESTS}/more/approval");
    let (code, message) = send(&ann, "PATCH", &approval, &approved).await.unwrap_err();
    assert_eq!(code, 403);
    assert!(
        message.contains("user not permitted to approve requests with signerName"),
        "{message}"
    );
    rules.push(json!({
        "apiGroups": ["certificates.k8s.io"], "verbs": ["approve"],
        "resources": ["signers"], "resourceNames": ["kubernetes.io/*"],
    }));
    let role = json!({"rules": rules});
    send(&ground.admin, "PATCH", &format!("{rbac}/clusterroles/asks"), &role).await.unwrap();
    let begun = tokio::time::Instant::now();
    while send(&ann, "PATCH", &approval, &approved).await.is_err() {
        assert!(begun.elapsed() < LIMIT, "the rule is not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ground.tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_a_bootstrap_token_becomes_a_node_and_renews_its_certificate() {
    let ground = Ground::start().await;
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
        },
    });
    let in_system = "/api/v1/namespaces/kube-system/secrets";
    send(&ground.admin, "POST", in_system, &secret).await.unwrap();
    let machine = ground.shows(json!({"token": "abcdef.0123456789abcdef"})).await;
    let (signer, node) = ("kube-apiserver-client-kubelet", "system:node:second");
    let (body, key) = ask("first", signer, node, &["system:nodes"]);
    send(&machine, "POST", REQUESTS, &body).await.unwrap();
    let signed = ground.eventually(&format!("{REQUESTS}/first"), is_signed).await;
    assert_eq!(signed["status"]["conditions"][0]["reason"], "AutoApproved");
    let agent = ground.shows(shown(&signed, &key)).await;
    assert_eq!(who(&agent).await.unwrap()["username"], node);

    let (body, key) = ask("renewed", signer, node, &["system:nodes"]);
    send(&agent, "POST", REQUESTS, &body).await.unwrap();
    let renewed = ground.eventually(&format!("{REQUESTS}/renewed"), is_signed).await;
    let message = renewed["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("self kubelet client certificate"), "{message}");
    assert!(who(&ground.shows(shown(&renewed, &key)).await).await.is_ok());
    // For another node it may ask, but nobody approves by itself.
    let (body, _) = ask("other", signer, "system:node:third", &["system:nodes"]);
    send(&agent, "POST", REQUESTS, &body).await.unwrap();
    let (body, _) = ask("after", signer, node, &["system:nodes"]);
    send(&agent, "POST", REQUESTS, &body).await.unwrap();
    ground.eventually(&format!("{REQUESTS}/after"), is_signed).await;
    let other = send(&ground.admin, "GET", &format!("{REQUESTS}/other"), &Value::Null).await;
    assert!(other.unwrap()["status"]["conditions"].is_null());
    ground.tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_secret_holds_until_the_secret_or_the_account_goes() {
    let ground = Ground::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let secret = |name: &str| {
        json!({
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "bot"}},
            "type": "kubernetes.io/service-account-token",
        })
    };
    send(&ground.admin, "POST", accounts, &json!({"metadata": {"name": "bot"}})).await.unwrap();
    for name in ["one", "two"] {
        send(&ground.admin, "POST", SECRETS, &secret(name)).await.unwrap();
    }
    let mut clients = Vec::new();
    for name in ["one", "two"] {
        let path = format!("{SECRETS}/{name}");
        let filled = ground.eventually(&path, |secret| secret["data"]["token"].is_string()).await;
        assert_eq!(filled["data"]["namespace"], STANDARD.encode("default"));
        assert!(filled["data"]["ca.crt"].is_string());
        let token = STANDARD.decode(filled["data"]["token"].as_str().unwrap()).unwrap();
        clients.push(ground.shows(json!({"token": String::from_utf8(token).unwrap()})).await);
    }
    for client in &clients {
        assert_eq!(who(client).await.unwrap()["username"], "system:serviceaccount:default:bot");
    }
    send(&ground.admin, "DELETE", &format!("{SECRETS}/one"), &Value::Null).await.unwrap();
    assert_eq!(who(&clients[0]).await.unwrap_err().0, 401, "its secret is gone");
    assert!(who(&clients[1]).await.is_ok());
    send(&ground.admin, "DELETE", &format!("{accounts}/bot"), &Value::Null).await.unwrap();
    assert_eq!(who(&clients[1]).await.unwrap_err().0, 401, "its account is gone");
    ground.eventually(&format!("{SECRETS}/two"), Value::is_null).await;
    ground.tasks.stop(Duration::from_secs(5)).await;
}
