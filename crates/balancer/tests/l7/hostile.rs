//! Clients that mean harm, by raw sockets: what they send is refused, and others notice nothing.

use super::*;

/// What comes back for `bytes` until the connection ends or is quiet for a while.
async fn sent(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses early may have closed before all is written.
    let _ = stream.write_all(bytes).await;
    quiet(&mut stream).await
}

async fn quiet(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match tokio::time::timeout(Duration::from_millis(700), stream.read(&mut buffer)).await {
            Ok(Ok(read)) if read > 0 => answer.extend_from_slice(&buffer[..read]),
            _ => return String::from_utf8_lossy(&answer).into_owned(),
        }
    }
}

async fn fine(balancer: &Balancer) {
    let answer = Client::new(balancer.config.http).get("web.example", "/").await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_framing_is_refused_and_no_second_request_reaches_a_pod() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: web.example\r\n\r\n";
    let head = "POST / HTTP/1.1\r\nHost: web.example\r\n";
    let cases = [
        (
            "length and chunks",
            format!(
                "{head}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "chunks and length",
            format!(
                "{head}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        ("two lengths", format!("{head}Content-Length: 0\r\nContent-Length: 44\r\n\r\n{hidden}")),
        (
            "two equal lengths",
            format!("{head}Content-Length: 0\r\nContent-Length: 0\r\n\r\n{hidden}"),
        ),
        ("a list of lengths", format!("{head}Content-Length: 0, 0\r\n\r\n{hidden}")),
        ("a signed length", format!("{head}Content-Length: +0\r\n\r\n{hidden}")),
        ("a hexadecimal length", format!("{head}Content-Length: 0x2c\r\n\r\n{hidden}")),
        ("a length below 0", format!("{head}Content-Length: -1\r\n\r\n{hidden}")),
        ("another coding", format!("{head}Transfer-Encoding: xchunked\r\n\r\n{hidden}")),
        (
            "chunked in a list",
            format!("{head}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "chunked twice",
            format!(
                "{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "a tab in the coding",
            format!("{head}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "chunks in HTTP/1.0",
            format!(
                "POST / HTTP/1.0\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        ("a folded line", format!("{head}X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n{hidden}")),
        ("a space before the colon", format!("{head}Content-Length : 0\r\n\r\n{hidden}")),
        (
            "lone line feeds",
            format!("POST / HTTP/1.1\nHost: web.example\nContent-Length: 0\n\n{hidden}"),
        ),
        ("one lone line feed", format!("{head}X-A: b\nContent-Length: 0\r\n\r\n{hidden}")),
        (
            "a carriage return in a value",
            format!("{head}X-A: b\rc\r\nContent-Length: 0\r\n\r\n{hidden}"),
        ),
        ("a zero byte", format!("{head}X-A: b\0c\r\nContent-Length: 0\r\n\r\n{hidden}")),
        ("two hosts", format!("{head}Host: other.example\r\nContent-Length: 0\r\n\r\n{hidden}")),
        ("no header name", format!("{head}: x\r\nContent-Length: 0\r\n\r\n{hidden}")),
    ];
    for (what, bytes) in cases {
        let answer = sent(balancer.config.http, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
    }
    let seen = pod.seen.lock().unwrap().clone();
    assert!(seen.is_empty(), "{seen:?}");
    fine(&balancer).await;
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_none_are_refused_and_extensions_go_no_further() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let head = "POST /length HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let hidden = "GET /hidden HTTP/1.1\r\nHost: web.example\r\n\r\n";
    for (what, body) in [
        ("a size that is none", "zz\r\nabc\r\n0\r\n\r\n"),
        ("a signed size", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size of 2^64", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("no end of the chunk", "3\r\nabcdef\r\n0\r\n\r\n"),
        ("a lone line feed after the size", "3\nabc\r\n0\r\n\r\n"),
    ] {
        let bytes = format!("{head}{body}{hidden}");
        let answer = sent(balancer.config.http, bytes.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(matches!(status, "400" | "502" | ""), "{what}: {answer}");
        assert!(!answer.contains("HTTP/1.1 200"), "{what}: {answer}");
    }
    // Extensions end here: the pod gets a body, and not a word of them.
    let mut client = TcpStream::connect(balancer.config.http).await.unwrap();
    let body = format!("{head}3;name=\"a\"\r\nabc\r\n0;x\r\n\r\n");
    client.write_all(body.replace("/length", "/chunks").as_bytes()).await.unwrap();
    let answer = quiet(&mut client).await;
    assert!(answer.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{answer}");
    let hidden = pod.seen.lock().unwrap().iter().any(|line| line.contains("/hidden"));
    assert!(!hidden, "{:?}", pod.seen.lock().unwrap());
    fine(&balancer).await;
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_are_refused_and_held_in_little_memory() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let http = balancer.config.http;
    let head = "GET / HTTP/1.1\r\nHost: web.example\r\n";
    let long = format!("{head}X-Long: {}\r\n\r\n", "a".repeat(40 * 1024));
    let answer = sent(http, long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let longer = format!("{head}X-Long: {}\r\n\r\n", "a".repeat(900 * 1024));
    let answer = sent(http, longer.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let many = format!("{head}{}\r\n", "X: y\r\n".repeat(300));
    let answer = sent(http, many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let path = format!("GET /{} HTTP/1.1\r\nHost: web.example\r\n\r\n", "a".repeat(900 * 1024));
    let answer = sent(http, path.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");

    // A hundred clients with a header that goes on: each may have 64 KiB here, and no more.
    let before = resident_kib();
    let mut bombs = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(http).await.unwrap();
        let begin = format!("{head}X-Long: {}", "a".repeat(60 * 1024));
        stream.write_all(begin.as_bytes()).await.unwrap();
        bombs.push(stream);
    }
    fine(&balancer).await;
    for stream in &mut bombs {
        let _ = stream.write_all("a".repeat(200 * 1024).as_bytes()).await;
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    fine(&balancer).await;
    drop(bombs);
    balancer.stop().await;
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_clients_leave_room_for_others() {
    let pod = Pod::start("one").await;
    let mut config = config();
    config.max_connections = 60;
    config.max_connections_each = 40;
    config.header_timeout = Duration::from_secs(2);
    let balancer = start(config, Some(snapshot(&[&pod], json!({})))).await;
    let http = balancer.config.http;
    let mut slow = Vec::new();
    for _ in 0..80 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.66:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(http).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: web.exam").await;
        slow.push(stream);
    }
    for _ in 0..20 {
        fine(&balancer).await;
    }
    for stream in &mut slow {
        let ended = tokio::time::timeout(SOON, stream.read(&mut [0; 64])).await;
        assert!(ended.is_ok(), "a slow client was not cut");
    }
    balancer.stop().await;
}

/// Frames of HTTP/2, RFC 9113 section 4.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// GET `path` of web.example without Huffman coding and without the table, RFC 7541.
fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(0x04, path), (0x01, "web.example")] {
        block.extend([index, u8::try_from(value.len()).unwrap()]);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// Reads until the connection ends; whether it said GOAWAY, and with which code.
async fn goaway(stream: &mut TcpStream) -> Option<u32> {
    let mut bytes = Vec::new();
    let reading = async {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..read]);
        }
    };
    let ended = tokio::time::timeout(SOON, reading).await;
    assert!(ended.is_ok(), "the connection goes on");
    let mut at = 0;
    let mut code = None;
    while at + 9 <= bytes.len() {
        let length = u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) as usize;
        if bytes[at + 3] == GOAWAY && at + 17 <= bytes.len() {
            code = Some(u32::from_be_bytes(bytes[at + 13..at + 17].try_into().unwrap()));
        }
        at += 9 + length;
    }
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_the_connection() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let load = Load::start(balancer.config.http, BOTH, true);
    load.more(50).await;
    for pause in [false, true] {
        let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
        stream.write_all(&hello()).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let mut sent = 0;
        let attack = async {
            for number in 0..5000_u32 {
                let id = number * 2 + 1;
                let request = frame(HEADERS, 0x5, id, &get("/slow"));
                let reset = frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
                if writing.write_all(&request).await.is_err() {
                    return;
                }
                if pause {
                    // Long enough for the request to be on its way to the pod.
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                if writing.write_all(&reset).await.is_err() {
                    return;
                }
                sent = number;
            }
        };
        let drain = async { while let Ok(1..) = reading.read(&mut [0; 4096]).await {} };
        let both = async { tokio::join!(attack, drain) };
        assert!(tokio::time::timeout(SOON * 4, both).await.is_ok(), "pause: {pause}");
        // Without a pause thousands fit into the sockets' buffers before the first is read.
        let most = if pause { 1000 } else { 4500 };
        assert!(sent < most, "{sent} resets were taken, pause: {pause}");
    }
    assert_eq!(load.failures().await, [""; 0], "others noticed it");
    fine(&balancer).await;
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn continuations_and_frames_without_end_are_cut() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    // Headers that never end.
    let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
    stream.write_all(&hello()).await.unwrap();
    stream.write_all(&frame(HEADERS, 0, 1, &get("/"))).await.unwrap();
    let piece = [&[0x00, 0x01, b'a', 0x7f, 0x81, 0x7d][..], &vec![b'b'; 16_000]].concat();
    for _ in 0..200 {
        if stream.write_all(&frame(CONTINUATION, 0, 1, &piece)).await.is_err() {
            break;
        }
    }
    let code = goaway(&mut stream).await;
    assert!(code.is_none_or(|code| code != 0), "{code:?}");
    // A frame of 16 MiB.
    let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
    stream.write_all(&hello()).await.unwrap();
    stream.write_all(&[0xff, 0xff, 0xff, HEADERS, 4, 0, 0, 0, 1]).await.unwrap();
    assert_eq!(goaway(&mut stream).await, Some(6), "FRAME_SIZE_ERROR");
    // Nothing that HTTP/2 knows.
    let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
    stream.write_all(&hello()).await.unwrap();
    let _ = stream.write_all(&frame(HEADERS, 0x5, 2, &get("/"))).await;
    assert!(goaway(&mut stream).await.is_some(), "a stream of the server's number");
    fine(&balancer).await;
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_requests_that_become_two_in_http1_are_refused() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let literal = |name: &str, value: &str| {
        let mut field = vec![0x00, u8::try_from(name.len()).unwrap()];
        field.extend_from_slice(name.as_bytes());
        field.push(u8::try_from(value.len()).unwrap());
        field.extend_from_slice(value.as_bytes());
        field
    };
    for (name, value) in [
        ("x-a", "b\r\nx-c: d"),
        ("x-a", "b\nc"),
        ("x-a\r\nb", "c"),
        ("transfer-encoding", "chunked"),
        ("connection", "x"),
        ("X-Upper", "y"),
    ] {
        let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
        stream.write_all(&hello()).await.unwrap();
        let block = [get("/hidden"), literal(name, value)].concat();
        stream.write_all(&frame(HEADERS, 0x5, 1, &block)).await.unwrap();
        let answer = quiet(&mut stream).await;
        assert!(!answer.contains("one"), "{name:?} {value:?}: {answer:?}");
    }
    let seen = pod.seen.lock().unwrap().clone();
    assert!(seen.is_empty(), "{seen:?}");
    fine(&balancer).await;
    balancer.stop().await;
}
