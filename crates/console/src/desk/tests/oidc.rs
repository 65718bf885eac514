//! Logging in through a provider that listens on a port, with TLS, and signs what it says.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::oidc::{Oidc, Provider, Signer};

const URL: &str = "https://console.example:8444";
const SECRET: &str = "s3cret/with+signs";

/// A provider. It gives codes to whoever asks, as if they had proved who they are, and takes each
/// once, from the client and with the verifier that it was given for.
struct Issuer {
    address: String,
    signer: Signer,
    /// By code: the challenge and the nonce.
    given: Mutex<HashMap<String, (String, String)>>,
    /// What it says beside, of whoever logs in.
    claims: Mutex<Value>,
}

impl Issuer {
    /// What a browser does there: the parameters that it is sent back with.
    fn log_in(&self, location: &str) -> (String, String) {
        let (to, query) = location.split_once('?').unwrap();
        assert_eq!(to, format!("{}/authorize", self.address));
        let asked: HashMap<String, String> = read(query);
        assert_eq!((&*asked["response_type"], &*asked["client_id"]), ("code", "berth"));
        assert_eq!(asked["redirect_uri"], format!("{URL}/oidc/callback"));
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
        let mut given = self.given.lock().unwrap();
        let code = format!("code-{}", given.len());
        given.insert(code.clone(), (asked["code_challenge"].clone(), asked["nonce"].clone()));
        (code, asked["state"].clone())
    }

    fn answer(&self, path: &str, authorization: &str, body: &str) -> Option<Value> {
        let address = &self.address;
        match path {
            "/.well-known/openid-configuration" => Some(json!({
                "issuer": address, "authorization_endpoint": format!("{address}/authorize"),
                "token_endpoint": format!("{address}/token"), "jwks_uri": format!("{address}/keys"),
            })),
            "/keys" => Some(self.signer.public()),
            "/token" => {
                let client = format!("berth:{}", SECRET.replace('/', "%2F").replace('+', "%2B"));
                if authorization != format!("Basic {}", STANDARD.encode(client)) {
                    return None;
                }
                let asked = read(body);
                let (challenge, nonce) = self.given.lock().unwrap().remove(&asked["code"])?;
                let shown = Sha256::digest(asked["code_verifier"].as_bytes());
                let right = URL_SAFE_NO_PAD.encode(shown) == challenge
                    && asked["grant_type"] == "authorization_code"
                    && asked["redirect_uri"] == format!("{URL}/oidc/callback");
                if !right {
                    return None;
                }
                let now = jiff::Timestamp::now().as_second();
                let mut claims = json!({ "iss": address, "aud": "berth", "nonce": nonce,
                    "iat": now, "exp": now + 300 });
                for (name, value) in self.claims.lock().unwrap().as_object().unwrap() {
                    claims[name] = value.clone();
                }
                let header = json!({ "alg": "ES256", "kid": "one" });
                let token = self.signer.sign(&header, &claims);
                Some(json!({ "access_token": "x", "token_type": "Bearer", "id_token": token }))
            }
            _ => None,
        }
    }
}

fn read(form: &str) -> HashMap<String, String> {
    let uri: http::Uri = format!("/?{form}").parse().unwrap();
    let pairs = axum::extract::Query::<HashMap<String, String>>::try_from_uri(&uri);
    pairs.unwrap().0
}

async fn issuer(dir: &std::path::Path, tasks: &Tasks) -> (Arc<Issuer>, std::path::PathBuf) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let names = Sans { ips: vec![Ipv4Addr::LOCALHOST.into()], dns: Vec::new() };
    let pki = Pki::load_or_create(&dir.join("provider"), &names, "provider").unwrap();
    let authority = dir.join("provider.crt");
    std::fs::write(&authority, pki.ca_pem()).unwrap();
    let serving = pki.api_serving();
    let chain = CertificateDer::pem_slice_iter(serving.cert_pem.as_bytes());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.collect::<Result<_, _>>().unwrap(),
            PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let issuer = Arc::new(Issuer {
        address: format!("https://{address}"),
        signer: Signer::new(),
        given: Mutex::default(),
        claims: Mutex::new(json!({ "sub": "1", "preferred_username": "zoe",
            "groups": ["berth:viewers", "system:masters"] })),
    });
    let (acceptor, group, served) =
        (TlsAcceptor::from(Arc::new(tls)), tasks.clone(), issuer.clone());
    tasks.spawn_until_stop("provider", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, served) = (acceptor.clone(), served.clone());
            group.spawn_until_stop("provider's connection", async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request| {
                    let served = served.clone();
                    async move { Ok::<_, std::convert::Infallible>(serve(&served, request).await) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                drop(server.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    (issuer, authority)
}

async fn serve(issuer: &Issuer, request: http::Request<Incoming>) -> http::Response<String> {
    let (parts, body) = request.into_parts();
    let line = parts.headers.get(header::AUTHORIZATION);
    let line = line.map(|line| line.to_str().unwrap()).unwrap_or_default().to_owned();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    match issuer.answer(parts.uri.path(), &line, &body) {
        Some(answer) => http::Response::new(answer.to_string()),
        None => http::Response::builder().status(400).body("{}".to_owned()).unwrap(),
    }
}

/// A browser's way there: where to, and the cookie that it keeps.
async fn begin(router: &Router) -> (String, String) {
    let request = Request::get("/oidc").body(Body::empty()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    for flag in ["__Host-berth-oidc=", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    (answer.headers()[header::LOCATION].to_str().unwrap().to_owned(), cookie)
}

/// And back.
async fn back(router: &Router, code: &str, state: &str, cookie: &str) -> Response {
    let request = Request::get(format!("/oidc/callback?code={code}&state={state}"))
        .header(header::COOKIE, cookie)
        .header("sec-fetch-site", "cross-site")
        .body(Body::empty())
        .unwrap();
    router.clone().oneshot(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_a_provider_names_is_let_in_as_that() {
    for mut ground in Ground::both().await {
        let (issuer, authority) = issuer(ground._dir.path(), &ground.tasks).await;
        let config = Oidc {
            issuer: issuer.address.clone(),
            client: "berth".to_owned(),
            secret: SECRET.to_owned(),
            url: URL.to_owned(),
            name: "preferred_username".to_owned(),
            groups: "groups".to_owned(),
            roles: Default::default(),
            authority: Some(authority),
        };
        ground.desk.provider = Some(Provider::new(config.clone()).unwrap());
        let router = routes(ground.desk.clone());
        let (to, cookie) = begin(&router).await;
        let (code, state) = issuer.log_in(&to);
        // Somebody else's browser, and one that was not told the state, get nothing and use it up.
        let (other_to, other_cookie) = begin(&router).await;
        let (other_code, other_state) = issuer.log_in(&other_to);
        for (code, state, cookie) in [
            (&other_code, &other_state, ""),
            (&other_code, &other_state, &*other_cookie),
            (&code, &"x".repeat(43), &*cookie),
        ] {
            let answer = back(&router, code, state, cookie).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{state} {cookie}");
        }
        let answer = back(&router, &code, &state, &cookie).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        assert_eq!(answer.headers()[header::LOCATION], "/");
        let given: Vec<_> = answer.headers().get_all(header::SET_COOKIE).iter().collect();
        let session = given[0].to_str().unwrap().split(';').next().unwrap().to_owned();
        assert!(
            session.starts_with("__Host-berth=") && given[0].to_str().unwrap().contains("Strict")
        );
        let zoe = Browser { router: router.clone(), cookie: session, csrf: String::new() };
        let me = body(zoe.get("/session").await).await;
        assert_eq!((&me["name"], &me["groups"]), (&json!("zoe"), &json!(["berth:viewers"])));
        assert_eq!(zoe.get(MAPS).await.status(), StatusCode::OK);
        assert_eq!(zoe.get("/k8s/api/v1/nodes").await.status(), StatusCode::FORBIDDEN);
        let again = back(&router, &code, &state, &cookie).await;
        assert_eq!(again.status(), StatusCode::BAD_REQUEST, "a code is taken once");
        assert_eq!(log_in(&router, "zoe", "").await.status(), StatusCode::UNAUTHORIZED);

        // What the provider says has to be right, and nobody becomes somebody else by it.
        let try_with = async |claims: Value| {
            *issuer.claims.lock().unwrap() = claims;
            let (to, cookie) = begin(&router).await;
            let (code, state) = issuer.log_in(&to);
            back(&router, &code, &state, &cookie).await.status()
        };
        let named = |name: &str, sub: &str| json!({ "preferred_username": name, "sub": sub });
        assert_eq!(try_with(named("zoe", "1")).await, StatusCode::SEE_OTHER);
        assert_eq!(try_with(named("zoe", "2")).await, StatusCode::FORBIDDEN, "another subject");
        assert_eq!(try_with(named("ann", "1")).await, StatusCode::FORBIDDEN, "one with a password");
        assert_eq!(try_with(named("system:admin", "3")).await, StatusCode::FORBIDDEN);
        let mut wrong = named("zoe", "1");
        for (name, value) in [("aud", json!("other")), ("nonce", json!("x")), ("exp", json!(1))] {
            wrong[name] = value;
            assert_eq!(try_with(wrong.clone()).await, StatusCode::UNAUTHORIZED, "{name}");
            wrong.as_object_mut().unwrap().remove(name);
        }
        assert_eq!(try_with(json!({ "sub": "1" })).await, StatusCode::UNAUTHORIZED, "no name");
        ground.desk.accounts.set_disabled("zoe", true).await.unwrap();
        assert_eq!(try_with(named("zoe", "1")).await, StatusCode::FORBIDDEN, "disabled");

        // What groups are here, not there, is said here.
        let roles = [("staff".to_owned(), "berth:viewers".to_owned())].into();
        ground.desk.provider = Some(Provider::new(Oidc { roles, ..config.clone() }).unwrap());
        let router = routes(ground.desk.clone());
        let (to, cookie) = begin(&router).await;
        let mut claims = named("yan", "9");
        claims["groups"] = json!(["staff", "berth:admins"]);
        *issuer.claims.lock().unwrap() = claims;
        let (code, state) = issuer.log_in(&to);
        assert_eq!(back(&router, &code, &state, &cookie).await.status(), StatusCode::SEE_OTHER);
        let all = ground.desk.accounts.list().await.unwrap();
        let yan = all.iter().find(|account| account.name == "yan").unwrap();
        assert_eq!(yan.groups, ["berth:viewers"]);

        // One whose secret is wrong there gets nobody in; nor does one whose certificate nobody knows.
        let stranger = Oidc { secret: "wrong".to_owned(), ..config.clone() };
        ground.desk.provider = Some(Provider::new(stranger).unwrap());
        let router = routes(ground.desk.clone());
        let (to, cookie) = begin(&router).await;
        let (code, state) = issuer.log_in(&to);
        let answer = back(&router, &code, &state, &cookie).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        ground.desk.provider = Some(Provider::new(Oidc { authority: None, ..config }).unwrap());
        let request = Request::get("/oidc").body(Body::empty()).unwrap();
        let answer = routes(ground.desk.clone()).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        ground.end().await;
    }
}
