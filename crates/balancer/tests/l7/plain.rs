//! Answers of every shape by the short way, and requests that change over to Pingora's.

use super::*;

/// What comes back for `bytes` until the connection ends or `ends` was seen `times` times.
async fn until_seen(stream: &mut TcpStream, bytes: &[u8], ends: &str, times: usize) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    let reading = async {
        let mut buffer = [0; 64 * 1024];
        while answer.matches(ends).count() < times {
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => answer += &String::from_utf8_lossy(&buffer[..read]),
                _ => break,
            }
        }
    };
    assert!(tokio::time::timeout(SOON, reading).await.is_ok(), "{answer}");
    answer
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";

/// The balancer before one pod that says `answer`, and a client's connection to it.
async fn before(answer: &[u8], closes: bool) -> (Balancer, Pod, TcpStream) {
    let pod = Pod::saying(answer, closes).await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let stream = TcpStream::connect(balancer.config.http).await.unwrap();
    (balancer, pod, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_arrive_whole_however_they_end() {
    let long = "x".repeat(300_000);
    let chunks = format!("493e0;ext\r\n{long}\r\n0\r\nX-Trailer: t\r\n\r\n");
    for (header, body, closes) in [
        ("Content-Length: 300000\r\n", long.as_str(), false),
        ("Transfer-Encoding: chunked\r\n", chunks.as_str(), false),
        ("", long.as_str(), true),
        ("Content-Length: 0\r\n", "", false),
        ("Connection: close\r\nContent-Length: 3\r\n", "end", true),
    ] {
        let answer = format!("HTTP/1.1 200 Fine\r\n{header}\r\n{body}");
        let (balancer, pod, mut stream) = before(answer.as_bytes(), closes).await;
        let mut rounds = 0;
        for _ in 0..3 {
            let mut got = String::new();
            let reading = async {
                stream.write_all(GET).await.unwrap();
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    got += &String::from_utf8_lossy(&buffer[..read]);
                    let begun = got.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
                    if got.contains("\r\n\r\n") && begun == body.len() && !header.is_empty() {
                        break;
                    }
                }
            };
            assert!(tokio::time::timeout(SOON, reading).await.is_ok(), "{header:?}");
            let (head, received) = got.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 Fine\r\n"), "{head}");
            assert!(head.contains("\r\nDate: "), "{head}");
            assert_eq!(received.len(), body.len(), "{header:?}");
            assert!(received == body, "{header:?}");
            rounds += 1;
            if header.is_empty() {
                assert!(head.ends_with("Connection: close"), "{head}");
                break;
            }
        }
        assert_eq!(pod.seen.lock().unwrap().len(), rounds, "none was asked twice: {header:?}");
        balancer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_and_interim_ones_pass() {
    let (balancer, _pod, mut stream) =
        before(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", false).await;
    let twice = [GET, GET].concat();
    let answer = until_seen(&mut stream, &twice, "\r\n\r\n", 2).await;
    assert_eq!(answer.matches("HTTP/1.1 304 Not Modified\r\n").count(), 2, "{answer}");
    balancer.stop().await;

    let (balancer, _pod, mut stream) =
        before(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", false).await;
    let head = b"HEAD / HTTP/1.1\r\nHost: web.example\r\n\r\n";
    let answer = until_seen(&mut stream, &[head, &head[..]].concat(), "\r\n\r\n", 2).await;
    assert_eq!(answer.matches("Content-Length: 7\r\n").count(), 2, "{answer}");
    balancer.stop().await;

    let (balancer, pod, mut stream) = before(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        false,
    )
    .await;
    for _ in 0..2 {
        let answer = until_seen(&mut stream, GET, "\r\n\r\nhi", 1).await;
        assert!(answer.starts_with("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 "));
    }
    assert_eq!(pod.seen.lock().unwrap().len(), 2);
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_becomes_502_and_what_breaks_off_is_cut() {
    for answer in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let (balancer, _pod, mut stream) = before(answer, true).await;
        let got = until_seen(&mut stream, GET, "nothing", 1).await;
        assert!(got.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{got}");
        assert!(got.contains("web.example: "), "{got}");
        balancer.stop().await;
    }
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    ] {
        let (balancer, pod, mut stream) = before(answer, true).await;
        let got = until_seen(&mut stream, GET, "nothing", 1).await;
        // Where nothing was sent on yet it can still be said.
        let said = got.starts_with("HTTP/1.1 502 ") && answer.ends_with(b"zz\r\nabc\r\n");
        assert!(said || got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
        assert!(!got.contains("\r\n0\r\n"), "{got}");
        assert_eq!(pod.seen.lock().unwrap().len(), 1, "begun answers are not asked for again");
        balancer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_row_are_answered_in_order_on_either_way() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: WEB.example.:80\r\n\r\n");
    let post = "POST /length HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\n\r\nhello";
    // Pingora takes one at a time: what was sent ahead of an answer of its own is lost to it.
    let row = get("/a") + &get("/echo") + &get("/b") + post;
    let mut answer = until_seen(&mut stream, row.as_bytes(), "\r\n\r\n5", 1).await;
    answer += &until_seen(&mut stream, get("/c").as_bytes(), "\r\n\r\none", 1).await;
    answer += &until_seen(&mut stream, get("/empty").as_bytes(), "HTTP/1.1 503 ", 1).await;
    let places = [
        "\r\n\r\none",
        "x-forwarded-for: 127.0.0.1",
        "\r\n\r\none",
        "\r\n\r\n5",
        "\r\n\r\none",
        "HTTP/1.1 503 ",
    ];
    let mut at = 0;
    for text in places {
        let found = answer[at..].find(text);
        assert!(found.is_some(), "{text:?} behind {at} in {answer}");
        at += found.unwrap() + text.len();
    }
    let seen = pod.seen.lock().unwrap().clone();
    let paths: Vec<_> = seen.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(paths, ["/a", "/echo", "/b", "/length", "/c"]);
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_request_with_it() {
    // It never answers, and may have one request.
    let pod = Pod::saying(b"", false).await;
    let mut routes = snapshot(&[&pod], json!({}));
    routes.services = vec![Arc::new(
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "web",
                "annotations": {"berth.dev/limit-route-open": "1"}},
            "spec": {"ports": [{"name": "http", "port": 80}]}
        }))
        .unwrap(),
    )];
    let balancer = start(config(), Some(routes)).await;
    let http = balancer.config.http;
    let ask = async || {
        let mut stream = TcpStream::connect(http).await.unwrap();
        stream.write_all(GET).await.unwrap();
        let mut answer = [0; 12];
        let read = stream.read_exact(&mut answer);
        let refused = tokio::time::timeout(Duration::from_millis(200), read).await;
        (stream, refused.is_ok_and(|read| read.is_ok()).then_some(answer))
    };
    let (open, refused) = ask().await;
    assert_eq!(refused, None);
    for _ in 0..3 {
        assert_eq!(ask().await.1, Some(*b"HTTP/1.1 503"));
    }
    drop(open);
    until("there is room again", async || ask().await.1.is_none()).await;
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_late_is_504_and_a_connection_without_a_word_ends() {
    let pod = Pod::start("one").await;
    let mut config = config();
    config.response_timeout = Duration::from_millis(100);
    config.header_timeout = Duration::from_millis(200);
    let balancer = start(config, Some(snapshot(&[&pod], json!({})))).await;
    let answer = Client::new(balancer.config.http).get("web.example", "/slow").await.unwrap();
    assert_eq!(answer.status, 504);
    assert!(
        answer.body.contains("web.example: the answer is late, Service n/web"),
        "{}",
        answer.body
    );
    let mut silent = TcpStream::connect(balancer.config.http).await.unwrap();
    let ended = tokio::time::timeout(SOON, silent.read(&mut [0; 16])).await;
    assert_eq!(ended.unwrap().unwrap_or(0), 0);
    balancer.stop().await;
}
