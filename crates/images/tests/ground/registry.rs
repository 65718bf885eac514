//! A registry of a test's own, and a client that shows what goes over the wire.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use berth_daemon::Tasks;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

pub struct Ground {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    tasks: Tasks,
}

#[allow(dead_code)] // not every test file uses all of it
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[allow(dead_code)] // not every test file uses all of it
impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are text"))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().expect("there is a code").to_owned()
    }
}

#[allow(dead_code)] // not every test file uses all of it
impl Ground {
    pub async fn new() -> Ground {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let tasks = Tasks::new();
        let address = serve(dir.path(), &tasks).await;
        Ground { dir, address, tasks }
    }

    /// Stops the registry and starts it anew on the same directory.
    pub async fn restart(&mut self) {
        self.tasks.stop(Duration::from_secs(10)).await;
        self.tasks = Tasks::new();
        self.address = serve(self.dir.path(), &self.tasks).await;
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .body(Full::new(body.into()))
            .expect("the request is right");
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("it is a name");
            request.headers_mut().append(name, value.parse().expect("it is a value"));
        }
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.expect("the registry answers");
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("the body arrives").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

async fn serve(dir: &Path, tasks: &Tasks) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    berth_images::registry::serve(listener, dir.to_owned(), tasks).expect("it starts");
    address
}
