//! What clients may send that they should not: over TLS as it comes, each answered with a `Status`
//! or a clean end, while another client is served as ever.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::{BOUND, connect, raw};
use crate::server::{CONFIG_MAPS, PODS, Server, config_map, pod, refused};

fn post(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn bodies_that_are_no_objects_are_bad_requests() {
    let server = Server::start().await;
    let check = async |kind: &str, body: &[u8], code: u16, reason: &str| {
        let started = Instant::now();
        let (got, status) = raw(&server, &post(kind, body)).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert_eq!(got, code, "{shown}: {status}");
        assert_eq!(status["kind"], "Status", "{shown}: {status}");
        assert_eq!(status["reason"], reason, "{shown}: {status}");
        assert!(started.elapsed() < BOUND, "{shown}: {:?}", started.elapsed());
    };
    let (json, yaml) = ("application/json", "application/yaml");
    for body in [
        b"{\"a\":".to_vec(),
        b"null".to_vec(),
        vec![0; 100],
        b"{\"data\":{\"a\":\"\xff\xfe\"}}".to_vec(),
        b"[".repeat(1_000_000),
        b"{\"a\":".repeat(500_000),
        b"{\"data\":1e999}".to_vec(),
    ] {
        check(json, &body, 400, "BadRequest").await;
    }
    let lists = |name: char| {
        let before = char::from(u8::try_from(u32::from(name)).unwrap() - 1);
        format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","))
    };
    let bomb = "a: &a [x]\n".to_owned() + &('b'..='z').map(lists).collect::<String>();
    let merges = |at: u32| {
        format!("k{at}: &k{at}\n  <<: [{}]\n", vec![format!("*k{}", at - 1); 9].join(","))
    };
    let merges = "k0: &k0 {x: 1}\n".to_owned() + &(1..30).map(merges).collect::<String>();
    let long = format!("z: &z '{}'\ndata:\n", "x".repeat(50_000));
    let long = (0..9_000).fold(long, |all, at| all + &format!("  k{at}: *z\n"));
    for body in [
        bomb.into_bytes(),
        merges.into_bytes(),
        long.into_bytes(),
        b"[".repeat(1_000_000),
        b"- ".repeat(1_000_000),
        b"a: \xff".to_vec(),
    ] {
        check(yaml, &body, 400, "BadRequest").await;
    }
    check("text/plain", b"{}", 415, "UnsupportedMediaType").await;
    check("application/vnd.kubernetes.protobuf", b"{}", 400, "BadRequest").await;
    check(json, &vec![b' '; 3 * 1024 * 1024 + 1], 413, "RequestEntityTooLarge").await;
    server.stop().await;
}

#[tokio::test]
async fn a_chunked_body_ends_at_the_limit_too() {
    let server = Server::start().await;
    let mut bytes = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..4 {
        bytes.extend_from_slice(b"100000\r\n");
        bytes.extend(std::iter::repeat_n(b' ', 0x10_0000));
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let (code, status) = raw(&server, &bytes).await;
    assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn patches_that_explode_are_refused() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("a", json!({}))).await.unwrap();
    let one = format!("{CONFIG_MAPS}/a");
    let copy = json!({"op": "copy", "from": "/x", "path": "/x/-"});
    let mut operations = vec![json!({"op": "add", "path": "/x", "value": ["x".repeat(1000)]})];
    operations.extend(std::iter::repeat_n(copy, 60));
    let answer = server.patch(&one, "json-patch+json", &Value::Array(operations)).await;
    assert!(refused(answer, 422, "Invalid").contains("accumulated size"));
    let mut path = "/x/k".to_owned();
    let mut operations = vec![json!({"op": "add", "path": "/x", "value": {"k": {}}})];
    for _ in 0..17 {
        operations.push(json!({"op": "copy", "from": "/x", "path": format!("{path}/k")}));
        path = format!("{path}/k{}", &path[2..]);
    }
    let answer = server.patch(&one, "json-patch+json", &Value::Array(operations)).await;
    assert!(refused(answer, 422, "Invalid").contains("levels deep"));
    server.get(&one).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn long_lists_cost_no_more_than_their_length() {
    let server = Server::start().await;
    let env = |prefix: &str| -> Vec<Value> {
        (0..8_000).map(|at| json!({"name": format!("{prefix}{at}"), "value": "1"})).collect()
    };
    let mut body = pod("long");
    body["spec"]["containers"][0]["env"] = Value::from(env("a"));
    server.create(PODS, &body).await.unwrap();
    let started = Instant::now();
    let patch = json!({"spec": {"containers": [{"name": "c", "env": env("b")}]}});
    // A pod's variables stay as they are, so the merge is all that this costs.
    let answer = server.patch(&format!("{PODS}/long"), "strategic-merge-patch+json", &patch).await;
    refused(answer, 422, "Invalid");
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    server.stop().await;
}

#[tokio::test]
async fn clients_that_never_finish_do_not_keep_others_waiting() {
    let server = Server::start().await;
    let mut held = Vec::new();
    for at in 0..120 {
        let mut stream = connect(&server).await;
        let start = match at % 3 {
            // Nothing at all, half a head, half a body.
            0 => String::new(),
            1 => "GET /api HTTP/1.1\r\nHost: x\r\nX-Long: ".to_owned(),
            _ => format!(
                "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                 Content-Length: 3000000\r\n\r\n{{"
            ),
        };
        stream.write_all(start.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let request = format!("GET {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\n\r\n");
    for _ in 0..20 {
        let started = Instant::now();
        let (code, _) = raw(&server, request.as_bytes()).await;
        assert_eq!(code, 200);
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn odd_requests_are_answered_and_change_nothing() {
    let server = Server::start().await;
    let check = async |head: &str, codes: &[u16]| {
        let (code, _) = raw(&server, format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert!(codes.contains(&code), "{}: {code}", &head[..head.len().min(100)]);
    };
    for path in ["a%2fb", "a%00b", "..", "%2e%2e", "%zz", "%ff"] {
        check(&format!("GET {CONFIG_MAPS}/{path} HTTP/1.1"), &[404]).await;
    }
    check(&format!("GET {CONFIG_MAPS}?labelSelector={} HTTP/1.1", "(".repeat(50_000)), &[400])
        .await;
    check(&format!("GET {CONFIG_MAPS}?fieldSelector={}%3D1 HTTP/1.1", "a.".repeat(30_000)), &[400])
        .await;
    // The answer is lost when the server closes while more is being sent.
    check(&format!("GET {CONFIG_MAPS}?x={} HTTP/1.1", "a".repeat(500_000)), &[414, 431, 0]).await;
    check(&format!("GET {CONFIG_MAPS} HTTP/1.1\r\nX-A: {}", "a".repeat(1_000_000)), &[431, 0])
        .await;
    check(&format!("BREW {CONFIG_MAPS} HTTP/1.1"), &[405]).await;
    check(&format!("GET {CONFIG_MAPS}?limit=99999999999999999999 HTTP/1.1"), &[400]).await;
    check(&format!("GET {CONFIG_MAPS} HTTP/1.1\r\nAccept: image/png"), &[406]).await;
    check(&format!("GET {CONFIG_MAPS} HTTP/1.1\r\nImpersonate-Group: a"), &[400]).await;
    // Two lengths: whoever stands between might see another request in it.
    check(
        &format!("POST {CONFIG_MAPS} HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5"),
        &[400],
    )
    .await;
    assert_eq!(server.get(CONFIG_MAPS).await.unwrap()["items"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn a_made_up_continue_token_leads_nowhere_else() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("mine", json!({}))).await.unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}});
    server.create("/api/v1/namespaces/default/secrets", &secret).await.unwrap();
    let secrets = "/registry/secrets/";
    let long = "/registry/configmaps/default/".to_owned() + &"x".repeat(5000);
    for after in ["", "/", "/registry/", "/registry/a", secrets, "\u{10ffff}", &long] {
        for revision in [0, 1, u64::MAX] {
            let token = URL_SAFE_NO_PAD.encode(json!({"rv": revision, "after": after}).to_string());
            let answer = server.get(&format!("{CONFIG_MAPS}?limit=5&continue={token}")).await;
            let Ok(list) = answer else {
                assert_ne!(revision, 0, "{after:?}: {answer:?}");
                let refusal = answer.unwrap_err();
                assert!(matches!(refusal.code, 400 | 410 | 504), "{after:?}: {refusal:?}");
                continue;
            };
            let items = list["items"].as_array().unwrap();
            assert!(items.iter().all(|one| one["metadata"]["name"] == "mine"), "{after:?}: {list}");
        }
    }
    for wrong in ["%00", "e30", "bnVsbA", "W10", "....", "eyJydiI6LTEsImFmdGVyIjoiIn0"] {
        let answer = server.get(&format!("{CONFIG_MAPS}?limit=5&continue={wrong}")).await;
        refused(answer, 400, "BadRequest");
    }
    server.stop().await;
}

#[tokio::test]
async fn streams_that_are_half_closed_or_cut_off_leave_the_server_as_it_was() {
    let server = Server::start().await;
    let whole = post("application/json", config_map("half", json!({})).to_string().as_bytes());
    // Everything is sent and then no more: the answer comes all the same.
    let mut stream = connect(&server).await;
    stream.write_all(&whole).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(BOUND, read).await.expect("answered or ended in time");
    let told = String::from_utf8_lossy(&answer);
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 201"), "{told}");
    // Cut off in the middle, by an end and by nothing at all.
    for at in [20, whole.len() - 1] {
        let mut stream = connect(&server).await;
        stream.write_all(&whole[..at]).await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        let mut stream = connect(&server).await;
        stream.write_all(&whole[..at]).await.unwrap();
        drop(stream.into_inner().0);
    }
    // A watch whose client goes without a word.
    for _ in 0..20 {
        let mut stream = connect(&server).await;
        let head = format!("GET {CONFIG_MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        drop(stream);
    }
    let list = server.get(CONFIG_MAPS).await.unwrap();
    assert!(list["items"].as_array().unwrap().len() <= 1, "{list}");
    server.create(CONFIG_MAPS, &config_map("after", json!({}))).await.unwrap();
    crate::server::eventually("the watches have ended", async || {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let metrics = server.admin().request_text(request).await.unwrap();
        let open =
            metrics.lines().filter(|line| line.starts_with("apiserver_longrunning_requests"));
        open.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() < 1.0
    })
    .await;
    server.stop().await;
}
