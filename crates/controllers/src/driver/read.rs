//! Reads lists and watches: from bytes to objects, without what no controller reads.
//!
//! Field ownership (`metadata.managedFields`) is a third of a pod's bytes and half of the work of
//! reading one, and nobody here looks at it: it is cut out of the text before that is decoded.
//!
//! Refuses a line of a watch that is longer than any object may be.

use futures::StreamExt;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::api::WatchEvent;
use kube::client::Body;
use kube::core::Status;
use kube::core::response::StatusSummary;
use memchr::memmem::Finder;
use serde::de::DeserializeOwned;

use super::feed::Changes;

/// No object is longer; etcd takes one and a half MiB.
const LONGEST_LINE: usize = 32 << 20;
const OWNERSHIP: &[u8] = b"\"managedFields\":[";

/// One page of a list.
///
/// # Errors
/// The server's refusal, or an answer that is no such list.
pub async fn page<T: DeserializeOwned>(
    client: &Client,
    request: Request<Vec<u8>>,
) -> kube::Result<T> {
    let response = accepted(client.send(request.map(Body::from)).await?).await?;
    let bytes = response.into_body().collect().await?.to_bytes();
    let mut text = Vec::with_capacity(bytes.len());
    without_ownership(&bytes, &mut text);
    serde_json::from_slice(&text).map_err(kube::Error::SerdeError)
}

/// The changes of one watch.
///
/// # Errors
/// The server's refusal.
pub async fn changes<K>(client: &Client, mut request: Request<Vec<u8>>) -> kube::Result<Changes<K>>
where
    K: DeserializeOwned + Send + 'static,
{
    // Servers of 1.37 and later pack each event of a watch for itself otherwise.
    let plain = HeaderValue::from_static("identity");
    request.headers_mut().insert(header::ACCEPT_ENCODING, plain);
    let response = accepted(client.send(request.map(Body::from)).await?).await?;
    let lines = Lines { body: response.into_body(), held: Vec::new(), begin: 0, seen: 0 };
    let read = futures::stream::unfold(Some((lines, Vec::new())), async |state| {
        let (mut lines, mut text) = state?;
        let event = match lines.next().await {
            Ok(None) => return None,
            Ok(Some(line)) => event(line, &mut text),
            Err(error) => Err(error),
        };
        let next = event.is_ok().then_some((lines, text));
        Some((event, next))
    });
    Ok(read.boxed())
}

/// An event of a watch; a line that is a bare refusal is an error.
fn event<K: DeserializeOwned>(line: &[u8], text: &mut Vec<u8>) -> kube::Result<WatchEvent<K>> {
    text.clear();
    without_ownership(line, text);
    serde_json::from_slice(text).map_err(|error| match serde_json::from_slice::<Status>(line) {
        Ok(status) => kube::Error::Api(Box::new(status)),
        Err(_) => kube::Error::SerdeError(error),
    })
}

/// The response, unless it is a refusal.
///
/// # Errors
/// [`kube::Error::Api`] with what the server said.
pub async fn accepted(response: Response<Body>) -> kube::Result<Response<Body>> {
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let bytes = response.into_body().collect().await?.to_bytes();
    let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| Status {
        status: Some(StatusSummary::Failure),
        code: code.as_u16(),
        message: String::from_utf8_lossy(&bytes).into_owned(),
        reason: code.canonical_reason().unwrap_or_default().to_owned(),
        ..Status::default()
    });
    Err(kube::Error::Api(Box::new(status)))
}

/// A body, line by line.
struct Lines<B> {
    body: B,
    held: Vec<u8>,
    /// Where the next line begins,
    begin: usize,
    /// and up to where no line ends.
    seen: usize,
}

impl<B> Lines<B>
where
    B: http_body::Body<Error = kube::Error> + Unpin,
    B::Data: AsRef<[u8]>,
{
    /// The next whole line; nothing where the body ends.
    async fn next(&mut self) -> kube::Result<Option<&[u8]>> {
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.held[self.seen..]) {
                let (begin, end) = (self.begin, self.seen + length);
                (self.begin, self.seen) = (end + 1, end + 1);
                return Ok(Some(&self.held[begin..end]));
            }
            self.held.drain(..self.begin);
            (self.begin, self.seen) = (0, self.held.len());
            if self.held.len() > LONGEST_LINE {
                let text = format!("a line of a watch is longer than {LONGEST_LINE} bytes");
                return Err(kube::Error::Service(text.into()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Some(bytes) = frame?.data_ref() {
                        self.held.extend_from_slice(bytes.as_ref());
                    }
                }
            }
        }
    }
}

/// Appends JSON `text` to `out` but for every list `managedFields`.
///
/// What looks like that key within a string has a backslash before its first quote.
fn without_ownership(text: &[u8], out: &mut Vec<u8>) {
    static FINDER: std::sync::LazyLock<Finder<'static>> =
        std::sync::LazyLock::new(|| Finder::new(OWNERSHIP));
    let (mut copied, mut from) = (0, 0);
    while let Some(at) = FINDER.find(&text[from..]) {
        let key = from + at;
        let list = key + OWNERSHIP.len() - 1;
        if key > 0 && text[key - 1] == b'\\' {
            from = list;
            continue;
        }
        let Some(length) = length_of_list(&text[list..]) else { break };
        let mut end = list + length;
        out.extend_from_slice(&text[copied..key]);
        // One of the commas around it goes too.
        if text.get(end) == Some(&b',') {
            end += 1;
        } else if out.last() == Some(&b',') {
            out.pop();
        }
        (copied, from) = (end, end);
    }
    out.extend_from_slice(&text[copied..]);
}

/// How long the JSON list is that `text` begins with; nothing where it does not end.
fn length_of_list(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text[at] {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => {
                at += 1;
                loop {
                    at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
                    if text[at] == b'"' {
                        break;
                    }
                    at += 2;
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    fn cut(text: &str) -> String {
        let mut out = Vec::new();
        without_ownership(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ownership_is_cut_out_and_nothing_else() {
        let owned =
            json!([{ "manager": "kubectl \"x\" ]}\\", "fieldsV1": { "f:a": { ".": {} } } }]);
        for (text, expected) in [
            (format!(r#"{{"a":1,"managedFields":{owned},"b":2}}"#), json!({ "a": 1, "b": 2 })),
            (format!(r#"{{"a":1,"managedFields":{owned}}}"#), json!({ "a": 1 })),
            (format!(r#"{{"managedFields":{owned}}}"#), json!({})),
            (
                format!(r#"[{{"managedFields":[]}},{{"managedFields":{owned},"b":[]}}]"#),
                json!([{}, { "b": [] }]),
            ),
        ] {
            assert_eq!(serde_json::from_str::<Value>(&cut(&text)).unwrap(), expected, "{text}");
        }
        for kept in [
            r#"{"data":{"k":"\"managedFields\":[1]"}}"#,
            r#"{"data":{"x\"managedFields":["a"]}}"#,
            r#"{"managedFields":[{"a":"#,
            r#"{"managedFields":["a\"#,
        ] {
            assert_eq!(cut(kept), kept);
        }
    }

    #[tokio::test]
    async fn lines_come_whole_however_the_body_was_cut() {
        let text = "{\"type\":\"ADDED\",\"object\":{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\
            \"metadata\":{\"name\":\"a\",\"managedFields\":[{}]}}}\n";
        let all = text.repeat(3);
        for size in [1, 7, text.len(), all.len()] {
            let parts: Vec<_> = all.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
            let stream = futures::stream::iter(parts.into_iter().map(|part| {
                Ok::<_, kube::Error>(http_body::Frame::data(axum::body::Bytes::from(part)))
            }));
            let body = http_body_util::StreamBody::new(stream);
            let mut lines = Lines { body, held: Vec::new(), begin: 0, seen: 0 };
            let mut count = 0;
            while let Some(line) = lines.next().await.unwrap() {
                let event: WatchEvent<ConfigMap> = event(line, &mut Vec::new()).unwrap();
                assert!(matches!(event, WatchEvent::Added(map)
                    if map.metadata.name.as_deref() == Some("a")));
                count += 1;
            }
            assert_eq!(count, 3, "in pieces of {size}");
        }
    }

    #[test]
    fn a_bare_refusal_in_a_watch_is_one() {
        let line = br#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":410}"#;
        let error = event::<ConfigMap>(line, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, kube::Error::Api(status) if status.code == 410));
    }
}
