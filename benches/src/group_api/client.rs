//! A client that costs little beside the servers it measures: requests made beforehand, over
//! HTTP/1.1 connections that stay, answers only cut out and not parsed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where to, and who as.
#[derive(Clone)]
pub struct Target {
    /// On loopback.
    pub port: u16,
    /// A header's line with its end, or nothing.
    pub credential: &'static str,
    /// Trusts the server; shows a certificate where that is who we are.
    pub tls: Arc<rustls::ClientConfig>,
}

impl Target {
    /// A request's bytes.
    pub fn request(&self, verb: &str, path: &str, kind: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        let credential = self.credential;
        let content = if body.is_empty() {
            String::new()
        } else {
            format!("content-type: {kind}\r\ncontent-length: {length}\r\n")
        };
        format!(
            "{verb} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n\
             {credential}{content}\r\n{body}"
        )
        .into_bytes()
    }
}

/// One connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// Bytes that came and belong to no answer yet.
    buffer: Vec<u8>,
    /// The last answer's body.
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens or the handshake fails.
    pub async fn open(target: &Target) -> Result<Self> {
        let opened = async {
            let tcp = TcpStream::connect(("127.0.0.1", target.port)).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
            TlsConnector::from(target.tls.clone()).connect(name, tcp).await
        };
        let stream = tokio::time::timeout(PATIENCE, opened).await??;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024), body: Vec::new() })
    }

    /// Sends a request and reads the whole answer; its status.
    ///
    /// # Errors
    /// When the connection breaks or a minute passes.
    pub async fn ask(&mut self, request: &[u8]) -> Result<u16> {
        tokio::time::timeout(PATIENCE, self.ask_patiently(request)).await.context("no answer")?
    }

    /// As [`Connection::ask`], for who does not look at the body: it is not kept.
    ///
    /// # Errors
    /// When the connection breaks or a minute passes.
    pub async fn ask_status(&mut self, request: &[u8]) -> Result<u16> {
        let asked = async {
            let (status, length) = self.head(request).await?;
            let Some(mut left) = length else { return self.rest(status).await };
            loop {
                let here = left.min(self.buffer.len());
                self.buffer.drain(..here);
                left -= here;
                if left == 0 {
                    return Ok(status);
                }
                self.fill().await?;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.context("no answer")?
    }

    /// The rest of an answer in chunks.
    async fn rest(&mut self, status: u16) -> Result<u16> {
        self.body.clear();
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.trim(), 16).context("a chunk's size")?;
            self.take(size).await?;
            self.line().await?;
            if size == 0 {
                return Ok(status);
            }
        }
    }

    async fn ask_patiently(&mut self, request: &[u8]) -> Result<u16> {
        let (status, length) = self.head(request).await?;
        self.body.clear();
        let Some(length) = length else { return self.rest(status).await };
        self.take(length).await?;
        Ok(status)
    }

    /// Sends a request and reads the head of the answer; the stream behind it is for `more`.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn head(&mut self, request: &[u8]) -> Result<(u16, Option<usize>)> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let end = loop {
            match memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.fill().await?,
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end]).context("a head of text")?;
        let status = head.get(9..12).and_then(|text| text.parse().ok()).context("a status")?;
        let mut length = Some(0);
        for line in head.lines().skip(1) {
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                length = None;
            }
        }
        self.buffer.drain(..end);
        Ok((status, length))
    }

    /// Whatever comes next on a stream, appended to `into`; how much it was.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn more(&mut self, into: &mut Vec<u8>) -> Result<usize> {
        if self.buffer.is_empty() {
            return Ok(self.stream.read_buf(into).await?);
        }
        into.append(&mut self.buffer);
        Ok(into.len())
    }

    async fn fill(&mut self) -> Result<()> {
        self.buffer.reserve(64 * 1024);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection ended");
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Result<()> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        self.body.extend(self.buffer.drain(..length));
        Ok(())
    }
}
