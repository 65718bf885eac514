//! One question to a balancer, over HTTP/1.1; its answer is bounded and looked through.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use berth_api::found::{LONGEST, PATH, Page};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More than any balancer's header.
const HEADER: usize = 4096;
/// No balancer's revision is longer.
const LONGEST_REVISION: usize = 128;

/// Why it is not known what a balancer finds.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("talk to it")]
    Stream(#[from] io::Error),
    #[error("it takes too long")]
    Late,
    #[error("its answer is longer than any may be")]
    TooLong,
    #[error("it knows more addresses than any may")]
    TooMany,
    #[error("what it answers is no HTTP")]
    NoHttp,
    #[error("it answers with status {0:?}")]
    Status(String),
    #[error("read its page")]
    Page(#[from] serde_json::Error),
    #[error("its page cannot be right")]
    Wrong,
}

/// What changed since a revision; the balancer may wait for something to change.
///
/// Takes as long as the other side does: bound it from outside.
pub(super) async fn ask(
    address: SocketAddr,
    since: &str,
    wait: Duration,
) -> Result<Page, AskError> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {PATH}?since={since}&wait={} HTTP/1.1\r\nHost: {address}\r\n\
         User-Agent: berth-dns\r\nConnection: close\r\n\r\n",
        wait.as_secs()
    );
    stream.write_all(request.as_bytes()).await?;
    let most = LONGEST + HEADER;
    let mut answer = Vec::new();
    // One byte more tells a long answer from one that is too long.
    stream.take(most as u64 + 1).read_to_end(&mut answer).await?;
    if answer.len() > most {
        return Err(AskError::TooLong);
    }
    read(&answer)
}

fn read(answer: &[u8]) -> Result<Page, AskError> {
    let end = answer.windows(4).position(|end| end == b"\r\n\r\n").ok_or(AskError::NoHttp)?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| AskError::NoHttp)?;
    let mut words = line.splitn(3, ' ');
    let version = words.next().filter(|version| version.starts_with("HTTP/1."));
    let (Some(_), Some(status)) = (version, words.next()) else { return Err(AskError::NoHttp) };
    if status != "200" {
        return Err(AskError::Status(status.chars().take(8).collect()));
    }
    let page: Page = serde_json::from_slice(&answer[end + 4..])?;
    // It goes into the next request as it is.
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    let revision = &page.revision;
    let short = (1..=LONGEST_REVISION).contains(&revision.len());
    let says = !page.more || !page.addresses.is_empty();
    if short && revision.bytes().all(good) && says { Ok(page) } else { Err(AskError::Wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::found::Finding;

    #[test]
    fn only_a_page_is_taken_for_one() {
        let with = |head: &str, body: &str| read(format!("{head}\r\n\r\n{body}").as_bytes());
        let ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
        let page = |revision: &str, more: bool| {
            format!(
                "{{\"revision\":\"{revision}\",\"whole\":true,\"more\":{more},\"addresses\":[]}}"
            )
        };
        let told = "{\"revision\":\"a.1\",\"whole\":false,\"more\":false,\"addresses\":\
                    [{\"address\":\"10.42.0.7\",\"finding\":\"ill\",\"why\":\"port 80: x\"},\
                    {\"address\":\"fd00::1\"}],\"later\":1}";
        let read_one = with(ok, told).expect("it is a page");
        assert_eq!(read_one.addresses[0].finding, Some(Finding::Ill));
        assert_eq!(read_one.addresses[1].finding, None);
        assert!(with("HTTP/1.0 200", &page("a.1", false)).is_ok());
        for (head, body) in [
            ("HTTP/1.1 404 Not Found", page("a.1", false)),
            ("HTTP/2 200 OK", page("a.1", false)),
            ("SSH-2.0", page("a.1", false)),
            (ok, String::new()),
            (ok, "ok\n".to_owned()),
            (ok, page("", false)),
            (ok, page("a b", false)),
            (ok, page("a\\r\\nX: y", false)),
            (ok, page(&"a".repeat(129), false)),
            // It would be asked again and again.
            (ok, page("a.1", true)),
            (ok, page("a.1", false).replace("[]", "[{\"address\":\"10.0.0\"}]")),
            (ok, page("a.1", false).replace("[]", "[{\"address\":\"::\",\"finding\":\"x\"}]")),
        ] {
            assert!(with(head, &body).is_err(), "{head} {body}");
        }
    }
}
