//! TLS towards pods: only those that show the right name, signed by the right authority.

use super::*;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// An authority as PEM, and what a server of `name` shows that it signed.
fn signed(name: &str) -> (String, rustls::ServerConfig) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let shown = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let shown = shown.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![shown.der().clone()], key)
        .unwrap();
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    (pem, settings)
}

/// TLS in front of `pod`; counts the connections that were trusted.
async fn encrypting(
    pod: SocketAddr,
    settings: rustls::ServerConfig,
    tasks: &Tasks,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (count, group) = (Arc::new(AtomicUsize::new(0)), tasks.clone());
    let (counted, acceptor) = (count.clone(), TlsAcceptor::from(Arc::new(settings)));
    tasks.spawn_until_stop("encrypting", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            group.spawn_until_stop("encrypted", async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                counted.fetch_add(1, Ordering::SeqCst);
                let mut plain = TcpStream::connect(pod).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    (address, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_prove_who_they_are_get_requests_and_others_none() {
    let pod = Pod::start("one").await;
    let (tasks, (authority, settings)) = (Tasks::new(), signed("api.internal"));
    let (address, trusted) = encrypting(pod.address, settings, &tasks).await;
    let other = signed("api.internal").0;
    let with = |host: &str, secret: &str, authority: &str| {
        let mut routes = snapshot(&[], json!({}));
        let arc = |value: Value| Arc::new(serde_json::from_value(value).unwrap());
        routes.services = vec![arc(json!({
            "metadata": {"namespace": "n", "name": "web", "annotations":
                {"berth.dev/tls-host": host, "berth.dev/tls-ca": secret}},
            "spec": {"ports": [{"name": "http", "port": 80}]}}))];
        routes.slices = vec![Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "n", "name": "web-1",
                    "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": address.port()}],
                "endpoints": [{"addresses": [address.ip().to_string()]}]}))
            .unwrap(),
        )];
        let mut kept = k8s_openapi::api::core::v1::Secret::default();
        kept.metadata.namespace = Some("n".to_owned());
        kept.metadata.name = Some("ca".to_owned());
        let data = [("ca.crt".to_owned(), k8s_openapi::ByteString(authority.into()))];
        kept.data = Some(data.into());
        routes.secrets = vec![Arc::new(kept)];
        routes
    };
    let balancer = start(config(), Some(with("api.internal", "ca", &authority))).await;
    let mut client = Client::new(balancer.config.http);
    for _ in 0..5 {
        let answer = client.get("web.example", "/").await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    }
    assert_eq!(trusted.load(Ordering::SeqCst), 1, "the connection is kept");
    let answer = client.request("POST", "web.example", "/length", &[], "body").await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "4"));

    let mut trusted_until = None;
    for (host, secret, authority, status) in [
        ("other.internal", "ca", &authority, 502),
        ("api.internal", "ca", &other, 502),
        ("api.internal", "none", &authority, 503),
        ("api.internal", "ca", &String::new(), 503),
        ("", "ca", &authority, 503),
    ] {
        balancer.publish(with(host, secret, authority));
        // The connection that is kept is of the old trust, and used for no other.
        until(&format!("{host} by {secret} is {status}"), async || {
            let mut client = Client::new(balancer.config.http);
            client.get("web.example", "/never").await.unwrap().status == status
        })
        .await;
        // Those that came before the news are of the trust before, which was good once.
        trusted_until.get_or_insert_with(|| pod.seen.lock().unwrap().len());
    }
    let seen = pod.seen.lock().unwrap().split_off(trusted_until.unwrap());
    assert!(seen.is_empty(), "{seen:?}");
    balancer.publish(with("api.internal", "ca", &authority));
    until("it is trusted again", async || {
        let mut client = Client::new(balancer.config.http);
        client.get("web.example", "/").await.unwrap().status == 200
    })
    .await;
    balancer.stop().await;
    tasks.stop(SOON).await;
}
