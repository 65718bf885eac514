//! Pods and clients that speak just enough HTTP/1.1.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use berth_daemon::{Stopped, Tasks};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers with its name. Ends its idle connections at once when it is stopped, and
/// finishes what it has begun.
pub struct Pod {
    pub address: SocketAddr,
    /// The first line and the body's length of each request that came.
    pub seen: Seen,
    tasks: Tasks,
}

pub type Seen = Arc<std::sync::Mutex<Vec<String>>>;

impl Pod {
    pub async fn start(name: &str) -> Self {
        Self::with_manners(name, true).await
    }

    /// Closes each connection after three answers, without saying so.
    pub async fn rude(name: &str) -> Self {
        Self::with_manners(name, false).await
    }

    async fn with_manners(name: &str, polite: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, name) = (Tasks::new(), Arc::<str>::from(name));
        let (group, seen) = (tasks.clone(), Seen::default());
        let shown = seen.clone();
        tasks.spawn("pod", async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = group.stopping() => break,
                };
                let (name, connection, seen) = (name.clone(), group.clone(), shown.clone());
                group.spawn("pod-connection", async move {
                    let _ = answer_all(accepted, &name, polite, connection, seen).await;
                });
            }
            // A server that ends in order takes what the kernel has queued.
            while let Some(Ok((stream, _))) = futures::FutureExt::now_or_never(listener.accept()) {
                let (name, connection, seen) = (name.clone(), group.clone(), shown.clone());
                group.spawn("pod-connection", async move {
                    let _ = answer_all(stream, &name, polite, connection, seen).await;
                });
            }
        });
        Self { address, seen, tasks }
    }

    /// Sends `answer` to each request, whatever it is, and closes the connection after it if
    /// `closes`.
    pub async fn saying(answer: &[u8], closes: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, seen, answer) = (Tasks::new(), Seen::default(), Arc::<[u8]>::from(answer));
        let (group, shown) = (tasks.clone(), seen.clone());
        tasks.spawn_until_stop("pod", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen) = (answer.clone(), shown.clone());
                group.spawn_until_stop("pod-connection", async move {
                    let mut stream = BufStream::new(stream);
                    while let Ok(Some(head)) = read_head(&mut stream).await {
                        seen.lock().unwrap().push(head.line);
                        let sent = stream.write_all(&answer).await.and(stream.flush().await);
                        if sent.is_err() || closes {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, seen, tasks }
    }

    pub async fn stop(self) {
        assert_eq!(self.tasks.stop(PATIENCE).await, Stopped::Drained);
    }
}

async fn answer_all(
    stream: TcpStream,
    name: &str,
    polite: bool,
    tasks: Tasks,
    seen: Seen,
) -> std::io::Result<()> {
    let mut stream = BufStream::new(stream);
    let mut first = true;
    for count in 1.. {
        let head = tokio::select! {
            biased;
            head = read_head(&mut stream) => head?,
            // A new connection's first request is on its way.
            () = tasks.stopping(), if !first => return Ok(()),
        };
        first = false;
        let Some(head) = head else { return Ok(()) };
        let length = head.length();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if head.line.contains("/chunks") {
            // As it came, up to the last chunk.
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(stream.read_u8().await?);
            }
        }
        let path = head.line.split(' ').nth(1).unwrap_or_default();
        seen.lock().unwrap().push(format!("{} +{length}", head.line));
        let mut status = "200 OK";
        let text = match path {
            _ if name.starts_with("ill") => {
                status = "503 Service Unavailable";
                name.to_owned()
            }
            path if path.starts_with("/show") => {
                let headers = head.headers.iter().map(|(key, value)| format!("{key}: {value}\n"));
                head.line.clone() + "\n" + &headers.collect::<String>()
            }
            "/text" => "word ".repeat(2000),
            "/ws" => return echo(stream).await,
            "/echo" => {
                head.headers.iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
            }
            "/chunks" => String::from_utf8_lossy(&body).into_owned(),
            "/length" => length.to_string(),
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                name.to_owned()
            }
            _ => name.to_owned(),
        };
        let kind = if path == "/text" { "text/plain" } else { "application/octet-stream" };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        if !polite && count == 3 {
            break;
        }
    }
    Ok(())
}

async fn echo(mut stream: BufStream<TcpStream>) -> std::io::Result<()> {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    let mut buffer = [0; 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
        stream.flush().await?;
    }
}

struct Head {
    line: String,
    headers: HashMap<String, String>,
}

impl Head {
    fn length(&self) -> usize {
        self.headers.get("content-length").map_or(0, |value| value.parse().unwrap())
    }
}

async fn read_head(stream: &mut BufStream<TcpStream>) -> std::io::Result<Option<Head>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" if lines.is_empty() => {}
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers = lines[1..].iter().filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned()));
    Ok(Some(Head { headers: headers.collect(), line: lines[0].clone() }))
}

/// What a client got.
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
    /// Whether the server ends the connection.
    pub closes: bool,
}

/// A client that keeps its connection as long as the server does.
pub struct Client {
    address: SocketAddr,
    stream: Option<BufStream<TcpStream>>,
    pub connections: usize,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, connections: 0 }
    }

    pub async fn get(&mut self, host: &str, path: &str) -> std::io::Result<Answer> {
        self.request("GET", host, path, &[], "").await
    }

    pub async fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<Answer> {
        let attempt = self.attempt(method, host, path, headers, body);
        let answer = tokio::time::timeout(PATIENCE, attempt).await?;
        if !matches!(&answer, Ok(answer) if !answer.closes) {
            self.stream = None;
        }
        answer
    }

    async fn attempt(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<Answer> {
        if self.stream.is_none() {
            self.stream = Some(BufStream::new(TcpStream::connect(self.address).await?));
            self.connections += 1;
        }
        let stream = self.stream.as_mut().unwrap();
        let headers: String =
            headers.iter().map(|(key, value)| format!("{key}: {value}\r\n")).collect();
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let Some(head) = read_head(stream).await? else {
            return Err(std::io::Error::other("closed without an answer"));
        };
        let mut body = vec![0; head.length()];
        stream.read_exact(&mut body).await?;
        let status = head.line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let closes = head.headers.get("connection").is_some_and(|value| value == "close");
        let (status, body) = (status.unwrap(), String::from_utf8(body).unwrap());
        Ok(Answer { status, headers: head.headers, body, closes })
    }
}
