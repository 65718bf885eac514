//! `/exec`, `/attach` and `/portForward`: bytes between a client and a container.
//!
//! What containerd speaks itself is passed through as it is; see `session` for the rest.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderName, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::session::{self, Channels};
use super::upgrade::{self, UpgradeError};
use super::{Node, Refusal, containers};
use crate::cri::{CriError, v1};

const V5: &str = "v5.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The names in a path; `uid` and `container` are not in all of them.
type Names = Path<HashMap<String, String>>;

pub(super) async fn exec(
    State(node): State<Node>,
    Path(names): Names,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::of(&request)?;
    let id = running_container(&node, &names)?;
    if asked.command.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "no command given".to_owned()));
    }
    let Channels { stdin, stdout, stderr, tty } = asked.channels;
    let exec = v1::ExecRequest {
        container_id: id,
        cmd: asked.command,
        tty,
        stdin,
        stdout,
        stderr: stderr && !tty,
    };
    let url = node.cri.exec(exec).await.map_err(refused)?;
    start(node, request, &url, Some(asked.channels)).await
}

pub(super) async fn attach(
    State(node): State<Node>,
    Path(names): Names,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::of(&request)?;
    let id = running_container(&node, &names)?;
    let Channels { stdin, stdout, stderr, tty } = asked.channels;
    let attach = v1::AttachRequest { container_id: id, stdin, tty, stdout, stderr: stderr && !tty };
    let url = node.cri.attach(attach).await.map_err(refused)?;
    start(node, request, &url, Some(asked.channels)).await
}

pub(super) async fn port_forward(
    State(node): State<Node>,
    Path(names): Names,
    request: Request,
) -> Result<Response, Refusal> {
    let entry =
        containers::pod(&node, name(&names, "namespace"), name(&names, "pod"), uid(&names))?;
    let sandbox = entry.sandbox_id.clone().ok_or_else(|| {
        Refusal(StatusCode::BAD_REQUEST, format!("pod {:?} is not running", name(&names, "pod")))
    })?;
    // The old WebSocket way names its ports here; the others name them stream by stream.
    let port = parameters(&request)
        .filter(|(key, _)| key == "port" || key == "ports")
        .flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
        .map(|port| port.parse::<u16>().map(i32::from))
        .collect::<Result<_, _>>()
        .map_err(|_| Refusal(StatusCode::BAD_REQUEST, "a port is no number".to_owned()))?;
    let forward = v1::PortForwardRequest { pod_sandbox_id: sandbox, port };
    let url = node.cri.port_forward(forward).await.map_err(refused)?;
    start(node, request, &url, None).await
}

fn name<'a>(names: &'a HashMap<String, String>, key: &str) -> &'a str {
    names.get(key).map(String::as_str).unwrap_or_default()
}

fn uid(names: &HashMap<String, String>) -> Option<&str> {
    names.get("uid").map(String::as_str)
}

fn running_container(node: &Node, names: &HashMap<String, String>) -> Result<String, Refusal> {
    let entry = containers::pod(node, name(names, "namespace"), name(names, "pod"), uid(names))?;
    Ok(containers::running(&entry, name(names, "container"))?.id)
}

/// Every key and value of the query, decoded.
fn parameters(request: &Request) -> impl Iterator<Item = (String, String)> {
    let uri = request.uri();
    axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map(|query| query.0)
        .unwrap_or_default()
        .into_iter()
}

/// What a request for a stream wants.
#[derive(Debug)]
struct Asked {
    command: Vec<String>,
    channels: Channels,
}

impl Asked {
    /// The kubelet's own parameter names, and those of the API beside them.
    fn of(request: &Request) -> Result<Self, Refusal> {
        let mut command = Vec::new();
        let mut channels = Channels { stdin: false, stdout: false, stderr: false, tty: false };
        for (key, value) in parameters(request) {
            let set = super::log::is_true(Some(&value));
            match key.as_str() {
                "command" => command.push(value),
                "input" | "stdin" => channels.stdin = set,
                "output" | "stdout" => channels.stdout = set,
                "error" | "stderr" => channels.stderr = set,
                "tty" => channels.tty = set,
                _ => {}
            }
        }
        if !(channels.stdin || channels.stdout || channels.stderr) {
            let text = "ask for at least one of stdin, stdout and stderr";
            return Err(Refusal(StatusCode::BAD_REQUEST, text.to_owned()));
        }
        Ok(Self { command, channels })
    }
}

fn refused(error: CriError) -> Refusal {
    let status = if error.is_not_found() {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    Refusal(status, error.reason())
}

fn broken(error: UpgradeError) -> Refusal {
    Refusal(StatusCode::BAD_GATEWAY, error.to_string())
}

/// How a client's protocol is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// containerd speaks it.
    Through,
    /// WebSocket version 5 to SPDY streams.
    Version5(Channels),
    /// SPDY inside WebSocket messages.
    Tunnel,
}

fn way(headers: &HeaderMap, channels: Option<Channels>) -> Way {
    let offers = |protocol: &str| {
        headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|offered| offered.trim() == protocol)
    };
    match channels {
        Some(channels) if offers(V5) => Way::Version5(channels),
        None if offers(TUNNEL) => Way::Tunnel,
        _ => Way::Through,
    }
}

async fn start(
    node: Node,
    mut request: Request,
    url: &str,
    channels: Option<Channels>,
) -> Result<Response, Refusal> {
    let place = node.sessions.clone().try_acquire_owned().map_err(|_| {
        let text =
            format!("node {} has {} open streams already", node.config.name, super::SESSIONS);
        Refusal(StatusCode::TOO_MANY_REQUESTS, text)
    })?;
    let Some(client) = request.extensions_mut().remove::<OnUpgrade>() else {
        let text = "this needs an upgrade to SPDY/3.1 or WebSocket".to_owned();
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    };
    let way = way(request.headers(), channels);
    let (protocols, subprotocol): (&[&'static str], _) = match way {
        Way::Through => {
            let headers = upgrade::upgrade_headers(request.headers());
            let method = request.method().clone();
            let opened = upgrade::open(url, method, headers, &node.tasks).await.map_err(broken)?;
            let response = upgrade::switching(&opened.headers);
            run(&node, client, opened, way, place);
            return Ok(response);
        }
        Way::Version5(_) => (&["v4.channel.k8s.io"], V5),
        Way::Tunnel => (&["portforward.k8s.io"], TUNNEL),
    };
    let response = accept_websocket(request.headers(), subprotocol)?;
    let headers = upgrade::spdy_headers(protocols);
    let opened = upgrade::open(url, Method::POST, headers, &node.tasks).await.map_err(broken)?;
    run(&node, client, opened, way, place);
    Ok(response)
}

/// The server's half of a WebSocket handshake (RFC 6455 §4.2.2).
fn accept_websocket(headers: &HeaderMap, subprotocol: &'static str) -> Result<Response, Refusal> {
    let wrong = || Refusal(StatusCode::BAD_REQUEST, "not a WebSocket handshake".to_owned());
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(wrong)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| wrong())?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(HeaderName::from_static("sec-websocket-accept"), accept);
    answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    Ok(response)
}

/// Carries the stream once the client has switched, until one side ends or the process does.
fn run(
    node: &Node,
    client: OnUpgrade,
    container: upgrade::Upgrade,
    way: Way,
    place: OwnedSemaphorePermit,
) {
    node.tasks.spawn_until_stop("container stream", async move {
        let _place = place;
        let mut container = container.connection;
        let client = match client.await {
            Ok(client) => TokioIo::new(client),
            Err(error) => {
                tracing::debug!(%error, "a client did not switch protocols");
                return;
            }
        };
        let ended = match way {
            Way::Through => {
                let mut client = client;
                tokio::io::copy_bidirectional(&mut client, &mut container).await.map(drop)
            }
            Way::Version5(channels) => session::carry(client, container, channels).await,
            Way::Tunnel => session::tunnel(client, container).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a stream broke off");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_protocol_decides_the_way() {
        let channels = Channels { stdin: true, stdout: true, stderr: true, tty: false };
        let check = |protocol: &'static str, channels: Option<Channels>, expected: Way| {
            let mut headers = HeaderMap::new();
            headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            assert_eq!(way(&headers, channels), expected, "{protocol}");
        };
        check("v4.channel.k8s.io", Some(channels), Way::Through);
        check("v5.channel.k8s.io, v4.channel.k8s.io", Some(channels), Way::Version5(channels));
        check("v4.channel.k8s.io", None, Way::Through);
        check("SPDY/3.1+portforward.k8s.io", None, Way::Tunnel);
        assert_eq!(way(&HeaderMap::new(), Some(channels)), Way::Through);
    }
}
