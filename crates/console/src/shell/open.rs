//! From a person's wish to a stream: a command in a container, or a container made for the purpose.

use std::net::IpAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::core::WatchEvent;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::carry::{self, Session};
use super::debug::{self, Debug, Profile, Stage};
use super::{End, Place, Record, Rights, Shells, Size, TERM};
use crate::accounts::Account;
use crate::acts::{Act, Acts};
use crate::database::now;
use crate::escape::escaped;

const ANSWER: Duration = Duration::from_secs(30);
/// An image has to be fetched.
const STARTS: Duration = Duration::from_secs(180);
/// What a browser sends at once: a paste is cut by the page.
const MESSAGE: usize = 64 * 1024;
const WORDS: usize = 4096;

/// Both ends are WebSockets over an upgraded connection.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Why a wish is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WantedError {
    /// It cannot be the name of a thing.
    #[error("{0} is missing or no name")]
    Name(&'static str),
    /// The command is too long.
    #[error("a command has at most {WORDS} bytes")]
    Long,
    /// The image cannot be one.
    #[error("the image is none")]
    Image,
    /// There is no such profile.
    #[error("a profile is one of general, network, plain")]
    Profile,
}

/// What the person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub namespace: String,
    pub pod: String,
    /// Empty: the pod's first.
    pub container: String,
    /// Empty: a shell.
    pub command: Vec<String>,
    /// The image of a container to be made beside the others, which sees `container`'s processes.
    pub debug: Option<Debug>,
    pub size: Size,
}

/// Who wants it, and where what they do is written.
pub(crate) struct Entry {
    pub account: Account,
    pub address: IpAddr,
    pub wanted: Wanted,
    pub acts: Acts,
    /// The headers that make the API server take a request as theirs.
    pub headers: http::HeaderMap,
}

impl Wanted {
    /// Of the parameters of a request.
    ///
    /// # Errors
    /// When they name no pod, or what cannot be.
    pub fn of(parameters: Vec<(String, String)>) -> Result<Self, WantedError> {
        let mut wanted = Self {
            namespace: String::new(),
            pod: String::new(),
            container: String::new(),
            command: Vec::new(),
            debug: None,
            size: Size { columns: 80, rows: 24 },
        };
        let (mut image, mut profile) = (String::new(), String::new());
        for (key, value) in parameters {
            match key.as_str() {
                "namespace" => wanted.namespace = value,
                "pod" => wanted.pod = value,
                "container" => wanted.container = value,
                "command" => wanted.command.push(value),
                "image" => image = value,
                "profile" => profile = value,
                "columns" => wanted.size.columns = value.parse().unwrap_or(80),
                "rows" => wanted.size.rows = value.parse().unwrap_or(24),
                _ => {}
            }
        }
        wanted.size = wanted.size.bounded();
        if !is_name(&wanted.namespace) {
            return Err(WantedError::Name("namespace"));
        }
        if !is_name(&wanted.pod) {
            return Err(WantedError::Name("pod"));
        }
        if !wanted.container.is_empty() && !is_name(&wanted.container) {
            return Err(WantedError::Name("container"));
        }
        if wanted.command.iter().map(String::len).sum::<usize>() > WORDS {
            return Err(WantedError::Long);
        }
        if !image.is_empty() {
            if image.len() > 512 || !image.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(WantedError::Image);
            }
            let profile = match profile.as_str() {
                "" => Profile::default(),
                word => Profile::of(word).ok_or(WantedError::Profile)?,
            };
            wanted.debug = Some(Debug { image, profile });
        }
        Ok(wanted)
    }

    fn pod_path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.pod)
    }

    /// The path of the stream, with its parameters.
    fn stream_path(&self) -> String {
        let (word, command) = match &self.debug {
            Some(_) => ("attach", Vec::new()),
            None if self.command.is_empty() => ("exec", shell()),
            None => ("exec", self.command.clone()),
        };
        let mut path =
            format!("{}/{word}?stdin=true&stdout=true&stderr=false&tty=true", self.pod_path());
        if !self.container.is_empty() {
            path.push_str(&format!("&container={}", self.container));
        }
        for one in command {
            path.push_str("&command=");
            path.push_str(&escaped(&one));
        }
        path
    }
}

/// The best shell there is, told what the terminal is.
fn shell() -> Vec<String> {
    let script =
        format!("TERM={TERM}; export TERM; command -v bash >/dev/null 2>&1 && exec bash; exec sh");
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

/// As Kubernetes names pods and containers: what needs no escape in a path.
fn is_name(text: &str) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=253).contains(&text.len())
        && text.bytes().all(fits)
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// Connects and carries until the session ends; the browser is told how it did.
pub(super) async fn run(
    shells: Shells,
    place: Place,
    browser: Upgraded,
    entry: Entry,
    rights: impl Rights,
) {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    let browser = TokioIo::new(browser);
    let mut browser = WebSocketStream::from_raw_socket(browser, Role::Server, Some(config)).await;
    let mut stopping = std::pin::pin!(shells.tasks.stopping());
    let begun = std::time::Instant::now();
    let connected = tokio::select! {
        connected = connect(&shells.client, &entry, &mut browser) => connected,
        () = &mut stopping => Err((StatusCode::SERVICE_UNAVAILABLE, End::Stopped)),
    };
    let status = match &connected {
        Ok(_) => StatusCode::SWITCHING_PROTOCOLS,
        Err((status, _)) => *status,
    };
    let wanted = &entry.wanted;
    let act = Act {
        at: now(),
        account: entry.account.name.clone(),
        address: entry.address.to_string(),
        verb: if wanted.debug.is_some() { "debug" } else { "shell" }.to_owned(),
        path: wanted.pod_path(),
        status: status.as_u16(),
        milliseconds: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
    };
    entry.acts.keep(act).await;
    let end = match connected {
        Ok((cluster, container)) => {
            let record = Record {
                id: place.id.clone(),
                account: entry.account.name.clone(),
                address: entry.address.to_string(),
                namespace: wanted.namespace.clone(),
                pod: wanted.pod.clone(),
                container,
                command: wanted.command.join(" "),
                image: wanted.debug.as_ref().map(|debug| debug.image.clone()).unwrap_or_default(),
                began: now(),
                ended: 0,
                ending: String::new(),
                bytes: 0,
            };
            match shells.records.begin(&record).await {
                Ok(()) => {
                    tell(&mut browser, &json!({ "opened": record.id })).await;
                    let session = Session { shells: &shells, place: &place, record, wanted };
                    session.carry(&mut browser, cluster, rights).await
                }
                Err(error) => {
                    tracing::error!(%error, "a shell cannot be recorded");
                    End::Unrecorded
                }
            }
        }
        Err((_, end)) => end,
    };
    tell(&mut browser, &json!({ "ended": end })).await;
    let closed = tokio::time::timeout(carry::SEND, browser.close(None)).await;
    drop(closed); // it may have gone before
}

/// Says something about the session, which is no part of it.
async fn tell(browser: &mut Socket, what: &Value) {
    let sent = browser.send(Message::text(what.to_string()));
    // A browser that is gone is noticed where its keys are read.
    drop(tokio::time::timeout(carry::SEND, sent).await);
}

type Failed = (StatusCode, End);

fn refused(status: StatusCode, message: impl Into<String>) -> Failed {
    (status, End::Refused { message: message.into() })
}

fn failed(error: kube::Error) -> Failed {
    match error {
        kube::Error::Api(status) => {
            let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::BAD_GATEWAY);
            refused(code, status.message)
        }
        error => {
            tracing::warn!(%error, "a shell's stream does not open");
            refused(StatusCode::BAD_GATEWAY, "the container's stream does not open")
        }
    }
}

/// The stream, and the container that it leads into.
async fn connect(
    client: &Client,
    entry: &Entry,
    browser: &mut Socket,
) -> Result<(Socket, String), Failed> {
    let mut wanted = entry.wanted.clone();
    if let Some(debug) = &wanted.debug {
        let name = Debug::name();
        add(client, entry, debug, &name).await?;
        tell(browser, &json!({ "waiting": name })).await;
        let runs = tokio::time::timeout(STARTS, runs(client, entry, &name));
        match runs.await {
            Ok(runs) => runs?,
            Err(_) => {
                let message = format!("container {name} did not start within {STARTS:?}");
                return Err(refused(StatusCode::GATEWAY_TIMEOUT, message));
            }
        }
        wanted.container = name;
    }
    let request = asked(entry, Request::get(wanted.stream_path()), Vec::new())?;
    match tokio::time::timeout(ANSWER, client.connect(request)).await {
        Ok(Ok(connection)) => Ok((connection.into_stream(), wanted.container)),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(refused(StatusCode::GATEWAY_TIMEOUT, "the API server does not answer")),
    }
}

fn asked(
    entry: &Entry,
    request: http::request::Builder,
    body: Vec<u8>,
) -> Result<Request<Vec<u8>>, Failed> {
    let mut request = request
        .body(body)
        .map_err(|_| refused(StatusCode::BAD_REQUEST, "the request cannot be made"))?;
    for (name, value) in &entry.headers {
        request.headers_mut().append(name, value.clone());
    }
    Ok(request)
}

/// Adds the container `name` to the pod, as the person.
async fn add(client: &Client, entry: &Entry, debug: &Debug, name: &str) -> Result<(), Failed> {
    let wanted = &entry.wanted;
    let patch = debug.patch(name, &wanted.container, &wanted.command, true);
    let path = format!("{}/ephemeralcontainers", wanted.pod_path());
    let request =
        Request::patch(path).header(header::CONTENT_TYPE, "application/strategic-merge-patch+json");
    let request = asked(entry, request, patch.to_string().into_bytes())?;
    match tokio::time::timeout(ANSWER, client.request::<Value>(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(refused(StatusCode::GATEWAY_TIMEOUT, "the API server does not answer")),
    }
}

/// Waits until the container `name` runs.
async fn runs(client: &Client, entry: &Entry, name: &str) -> Result<(), Failed> {
    let wanted = &entry.wanted;
    loop {
        // Without a version a watch begins with what is there.
        let path = format!(
            "/api/v1/namespaces/{}/pods?watch=true&fieldSelector=metadata.name%3D{}",
            wanted.namespace, wanted.pod
        );
        let request = asked(entry, Request::get(path), Vec::new())?;
        let events = client.request_events::<Pod>(request).await.map_err(failed)?;
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event.map_err(failed)? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    if started(&pod, name)? {
                        return Ok(());
                    }
                }
                WatchEvent::Deleted(_) => {
                    return Err(refused(StatusCode::NOT_FOUND, "the pod is gone"));
                }
                WatchEvent::Error(status) => {
                    return Err(failed(kube::Error::Api(status)));
                }
                WatchEvent::Bookmark(_) => {}
            }
        }
    }
}

/// Whether the ephemeral container runs; an error when it never will, or did already.
fn started(pod: &Pod, name: &str) -> Result<bool, Failed> {
    let message = match debug::stage(pod, name) {
        Ok(Stage::Coming) => return Ok(false),
        Ok(Stage::Running) => return Ok(true),
        Ok(Stage::Over(code)) => format!("container {name} ended with {code}"),
        Err(why) => why,
    };
    Err(refused(StatusCode::BAD_GATEWAY, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(parameters: &[(&str, &str)]) -> Result<Wanted, WantedError> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Wanted::of(parameters.iter().map(owned).collect())
    }

    #[test]
    fn a_wish_becomes_the_path_of_a_stream() {
        let base = [("namespace", "shop"), ("pod", "web-0")];
        let path = wanted(&base).unwrap().stream_path();
        let head = "/api/v1/namespaces/shop/pods/web-0/exec?stdin=true&stdout=true&stderr=false\
                    &tty=true&command=sh&command=-c&command=TERM%3Dxterm-256color%3B";
        assert!(path.starts_with(head), "{path}");
        let more = [("container", "web"), ("command", "ls"), ("command", "a&b =#%\u{e9}")];
        let path = wanted(&[&base[..], &more].concat()).unwrap().stream_path();
        let tail = "&tty=true&container=web&command=ls&command=a%26b%20%3D%23%25%C3%A9";
        assert!(path.ends_with(tail), "{path}");
        let debug =
            wanted(&[&base[..], &[("image", "busybox:1"), ("profile", "network")]].concat());
        let debug = debug.unwrap();
        assert_eq!(debug.debug.as_ref().unwrap().profile, Profile::Network);
        assert!(debug.stream_path().starts_with("/api/v1/namespaces/shop/pods/web-0/attach?"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (key, value) in [
            ("namespace", ""),
            ("namespace", "../kube-system"),
            ("pod", "a/exec?x="),
            ("pod", "A"),
            ("pod", ".."),
            ("container", "a&command=x"),
            ("image", "a b"),
        ] {
            let all = [("namespace", "shop"), ("pod", "web-0"), (key, value)];
            assert!(wanted(&all).is_err(), "{key}={value}");
        }
        let long = "x".repeat(WORDS + 1);
        assert!(wanted(&[("namespace", "a"), ("pod", "b"), ("command", &long)]).is_err());
        let odd = [("namespace", "a"), ("pod", "b"), ("image", "i"), ("profile", "root")];
        assert!(matches!(wanted(&odd), Err(WantedError::Profile)));
    }
}
