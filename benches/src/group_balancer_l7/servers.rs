//! The proxies that are measured, each with one thread, on free loopback ports.
//!
//! All do the same: look the host up, pass the request on over kept connections, add the client's
//! address, and log nothing.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::server::Server;

/// Ours, from saved routes.
pub fn ours(dir: &Path, behind: u16, hosts: u32) -> Result<Server> {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    let rules = (0..hosts).map(
        |number| json!({"host": format!("h{number}.bench.example"), "http": {"paths": paths}}),
    );
    let routes = json!({
        "ingresses": [{"metadata": {"namespace": "n", "name": "all"},
            "spec": {"ingressClassName": "berth", "rules": rules.collect::<Vec<_>>()}}],
        "classes": [],
        "services": [{"metadata": {"namespace": "n", "name": "web"},
            "spec": {"ports": [{"name": "http", "port": 80}]}}],
        "slices": [{"metadata": {"namespace": "n", "name": "web-1",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": behind}],
            "endpoints": [{"addresses": ["127.0.0.1"]}]}],
        "secrets": [],
    });
    let path = dir.join("routes.json");
    std::fs::write(&path, routes.to_string())?;
    let [port] = berth_tests::free_ports()?;
    let words = [format!("127.0.0.1:{port}"), path.display().to_string()];
    Server::example("ours", "l7_serve", &words, port, answers)
}

/// nginx; `None` where it is not installed.
pub fn nginx(dir: &Path, behind: u16, hosts: u32) -> Result<Option<Server>> {
    let [port] = berth_tests::free_ports()?;
    let shown = dir.display();
    let mut config = format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {shown}/nginx.pid;\n\
         error_log {shown}/nginx.log crit;\nevents {{ worker_connections 4096; }}\n\
         http {{\naccess_log off;\nserver_names_hash_max_size 8192;\n\
         client_body_temp_path {shown}/body;\nproxy_temp_path {shown}/proxy;\n\
         fastcgi_temp_path {shown}/fastcgi;\nuwsgi_temp_path {shown}/uwsgi;\n\
         scgi_temp_path {shown}/scgi;\nkeepalive_requests 1000000000;\n\
         upstream web {{ server 127.0.0.1:{behind}; keepalive 256; \
         keepalive_requests 1000000000; }}\n\
         proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n\
         proxy_set_header Host $host;\nproxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Proto $scheme;\nproxy_set_header X-Forwarded-Host $host;\n\
         proxy_set_header X-Request-ID $request_id;\n"
    );
    for number in 0..hosts {
        writeln!(
            config,
            "server {{ listen 127.0.0.1:{port}; server_name h{number}.bench.example; \
             location / {{ proxy_pass http://web; }} }}"
        )?;
    }
    config.push_str("}\n");
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config)?;
    let words = ["-c".into(), path.display().to_string(), "-p".into(), shown.to_string()];
    Server::installed("nginx", "/usr/sbin/nginx", &words, port, answers)
}

/// HAProxy; `None` where it is not installed.
pub fn haproxy(dir: &Path, behind: u16, hosts: u32) -> Result<Option<Server>> {
    let [port] = berth_tests::free_ports()?;
    let map = dir.join("haproxy.map");
    let lines = (0..hosts).map(|number| format!("h{number}.bench.example web\n"));
    std::fs::write(&map, lines.collect::<String>())?;
    let config = format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 2s\n  \
         timeout client 30s\n  timeout server 30s\n  http-reuse always\nfrontend all\n  \
         bind 127.0.0.1:{port}\n  option forwardfor\n  unique-id-format %[uuid()]\n  \
         unique-id-header X-Request-ID\n  http-request set-header X-Forwarded-Proto http\n  \
         http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
         use_backend %[req.hdr(host),lower,map_str({})]\nbackend web\n  \
         server one 127.0.0.1:{behind}\n",
        map.display()
    );
    let path = dir.join("haproxy.cfg");
    std::fs::write(&path, config)?;
    let words = ["-db".into(), "-f".into(), path.display().to_string()];
    Server::installed("haproxy", "/usr/sbin/haproxy", &words, port, answers)
}

/// Whether it passes a request on.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h0.bench.example\r\n\r\n")?;
        let mut answer = [0; 512];
        let read = stream.read(&mut answer)?;
        Ok(answer[..read].starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}
