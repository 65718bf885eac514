//! Asking once: exec, HTTP, TCP or gRPC.
//!
//! Each answer is a fresh connection, as Kubernetes has it: a kept one would tell nothing about
//! whether new ones are taken.

mod grpc;
mod http;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::verdict::Answer;
use crate::cri::Cri;

/// Of a command's output this much goes into a message.
const OUTPUT_MOST: usize = 1024;

/// Whom to ask.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub container: Container,
    pub id: String,
    pub address: IpAddr,
}

/// Asks `probe` once.
pub(crate) async fn ask(cri: &Cri, target: &Target, probe: &Probe) -> Answer {
    let seconds = probe.timeout_seconds.and_then(|n| u64::try_from(n).ok()).unwrap_or(1).max(1);
    let limit = Duration::from_secs(seconds);
    if let Some(exec) = &probe.exec {
        return run(cri, target, exec, limit).await;
    }
    let answer = async {
        if let Some(get) = &probe.http_get {
            http_get(target, get).await
        } else if let Some(socket) = &probe.tcp_socket {
            tcp(target, socket).await
        } else if let Some(service) = &probe.grpc {
            let port = u16::try_from(service.port).unwrap_or_default();
            let address = SocketAddr::new(target.address, port);
            grpc::check(address, service.service.clone().unwrap_or_default()).await
        } else {
            Answer::Unknown
        }
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Answer::Failure(format!("no answer within {seconds} s")),
    }
}

/// Runs a command in the container: a probe's or a hook's.
pub(crate) async fn run(cri: &Cri, target: &Target, exec: &ExecAction, limit: Duration) -> Answer {
    let command = exec.command.clone().unwrap_or_default();
    match cri.exec_sync(&target.id, &command, limit).await {
        Ok(output) if output.exit_code == 0 => Answer::Success,
        Ok(output) => {
            let mut said = output.stdout;
            said.extend(output.stderr);
            said.truncate(OUTPUT_MOST);
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            Answer::Failure(format!("exit code {}: {said}", output.exit_code))
        }
        Err(error) if error.is_deadline() => {
            Answer::Failure(format!("command timed out: {command:?} after {} s", limit.as_secs()))
        }
        // The runtime being away says nothing about the container.
        Err(error) if error.is_away() || error.is_not_found() => Answer::Unknown,
        Err(error) => Answer::Failure(error.reason()),
    }
}

/// An HTTP request: a probe's or a hook's.
pub(crate) async fn http_get(target: &Target, get: &HTTPGetAction) -> Answer {
    let Some(port) = port(&target.container, &get.port) else {
        return Answer::Failure(format!("no port {:?} in the container", get.port));
    };
    let headers: Vec<(String, String)> = get
        .http_headers
        .iter()
        .flatten()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    let host = get.host.clone().filter(|host| !host.is_empty());
    let request = http::Request {
        host: host.unwrap_or_else(|| target.address.to_string()),
        port,
        path: get.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
        tls: get.scheme.as_deref() == Some("HTTPS"),
        headers,
    };
    http::get(&request).await
}

async fn tcp(target: &Target, socket: &TCPSocketAction) -> Answer {
    let Some(port) = port(&target.container, &socket.port) else {
        return Answer::Failure(format!("no port {:?} in the container", socket.port));
    };
    let host = socket.host.clone().filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| target.address.to_string());
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Answer::Success,
        Err(error) => Answer::Failure(format!("dial tcp {host}:{port}: {error}")),
    }
}

/// A port by number, or by its name in the container.
fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port > 0),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            match named {
                Some(port) => u16::try_from(port.container_port).ok(),
                None => name.parse().ok().filter(|port| *port > 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection with `status`, says the port.
    async fn server(status: &'static str, tasks: &berth_daemon::Tasks) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tasks.spawn_until_stop("server", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nhi");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn target(port: u16) -> Target {
        let container = serde_json::json!({
            "name": "c", "ports": [{"name": "web", "containerPort": port}]
        });
        Target {
            container: serde_json::from_value(container).expect("a container"),
            id: "c0".to_owned(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    #[tokio::test]
    async fn http_answers_from_200_to_399_are_successes_and_ports_have_names() {
        let tasks = berth_daemon::Tasks::new();
        for (status, success) in
            [("200 OK", true), ("302 Found", true), ("404 Not Found", false), ("500 No", false)]
        {
            let port = server(status, &tasks).await;
            for named in [IntOrString::Int(port.into()), IntOrString::String("web".to_owned())] {
                let get = HTTPGetAction { port: named, ..HTTPGetAction::default() };
                let answer = http_get(&target(port), &get).await;
                assert_eq!(answer == Answer::Success, success, "{status}: {answer:?}");
            }
        }
        tasks.cancel();
    }

    #[tokio::test]
    async fn a_closed_port_is_a_failure() {
        let [port] = berth_tests::free_ports().expect("a port");
        let socket = TCPSocketAction { port: IntOrString::Int(port.into()), host: None };
        assert!(matches!(tcp(&target(port), &socket).await, Answer::Failure(_)));
    }
}
