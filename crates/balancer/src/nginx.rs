//! Ingress rules as a configuration of nginx, for sites that keep theirs. Pure.
//!
//! The same rules as `l7`'s: hosts as given, then wildcards, then rules without a host; `Exact`
//! before prefixes, longer prefixes first, a prefix ends where a path element does; then the
//! default backend. Picking is nginx's nearest: `least_conn`, round robin, weights, `hash …
//! consistent`; limits become `max_conns`, connect failures `max_fails`, weights of clusters are
//! multiplied in.
//!
//! # What it refuses
//! What nginx without its paid modules cannot do: active checks, slow start, locality, loads, and
//! rates for each endpoint are left out and named. Gateways and their routes are. Hosts and paths
//! that could say anything else than themselves in nginx's language are refused and named; the
//! rest is written.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};
use kube::ResourceExt;

use crate::l7::Snapshot;
use crate::l7::certificates;
use crate::l7::clusters::{Backends, PortWanted};
use crate::l7::pick::{BackendSet, HashOn, Pick, Sets};
use crate::l7::renewals::refused;
use crate::rendered::{Beside, Rendered};

/// How it is written.
#[derive(Clone, Debug)]
pub struct Options {
    /// The class whose Ingresses are written.
    pub class: String,
    /// The ports of plain HTTP and of TLS.
    pub http: u16,
    /// TLS.
    pub https: u16,
    /// Whether it is a whole configuration; else what goes into `http { }` of another.
    pub whole: bool,
    /// Where nginx writes its process id, in a whole one.
    pub pid: String,
    /// The file that it will be; certificates lie beside it.
    pub file: PathBuf,
    /// Connections that a worker may have, in a whole one.
    pub connections: u32,
}

/// A server, by path: exact ones and prefixes (without a slash at the end).
#[derive(Default)]
struct Server {
    exact: BTreeMap<String, Target>,
    prefixes: BTreeMap<String, Target>,
    secret: Option<Files>,
}

/// Where a certificate and its key lie.
type Files = [String; 2];

#[derive(Clone)]
enum Target {
    Upstream(String),
    /// With what is said instead.
    Nothing(&'static str),
}

/// Writes `snapshot` down.
pub fn render(snapshot: &Snapshot, options: &Options) -> Rendered {
    let before = Sets::default();
    let mut made = Made {
        backends: Backends::new(snapshot, &before),
        upstreams: BTreeMap::new(),
        secrets: BTreeMap::new(),
        options,
        rendered: Rendered::default(),
    };
    let mut servers: BTreeMap<String, Server> = BTreeMap::new();
    let mut default = None;
    for ingress in snapshot.served(&options.class) {
        made.ingress(ingress, snapshot, &mut servers, &mut default);
    }
    let Made { upstreams, mut rendered, .. } = made;
    let mut text = String::new();
    for (name, body) in upstreams {
        writeln!(text, "upstream {name} {{\n{body}}}").expect(NEVER);
    }
    text.push_str(PROXY);
    let any = servers.remove("").unwrap_or_default();
    if options.whole || !any.exact.is_empty() || !any.prefixes.is_empty() || default.is_some() {
        server(&mut text, "", &any, default.as_ref(), options);
    }
    if options.whole && any.secret.is_none() && servers.values().any(|one| one.secret.is_some()) {
        // Else the first of those with a certificate would answer for every host.
        let port = options.https;
        writeln!(
            text,
            "server {{\n  listen {port} ssl default_server;\n  ssl_reject_handshake on;\n}}"
        )
        .expect(NEVER);
    }
    for (host, rules) in &servers {
        server(&mut text, host, rules, default.as_ref(), options);
    }
    rendered.text = if options.whole { whole(&text, options) } else { format!("{HEAD}{text}") };
    rendered
}

const NEVER: &str = "writing to a String cannot fail";
const HEAD: &str = "# Written by berth; changes are lost.\n";

/// What every request is passed on with. WebSockets need the two variables.
const PROXY: &str = "\
map $http_upgrade $berth_connection { default upgrade; '' ''; }
proxy_http_version 1.1;
proxy_set_header Host $host;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection $berth_connection;
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Host $http_host;
proxy_connect_timeout 2s;
proxy_read_timeout 300s;
proxy_next_upstream error timeout;
proxy_next_upstream_tries 4;
";

fn whole(text: &str, options: &Options) -> String {
    let Options { pid, connections, .. } = options;
    format!(
        "{HEAD}worker_processes auto;\nworker_shutdown_timeout 30s;\npid {pid};\n\
         error_log stderr warn;\nevents {{ worker_connections {connections}; }}\n\
         http {{\naccess_log off;\nserver_tokens off;\nserver_names_hash_bucket_size 128;\n\
         server_names_hash_max_size 65536;\nvariables_hash_max_size 4096;\n{text}}}\n"
    )
}

fn server(
    text: &mut String,
    host: &str,
    rules: &Server,
    default: Option<&Target>,
    options: &Options,
) {
    let mut line = |words: std::fmt::Arguments<'_>| {
        text.write_fmt(words).expect(NEVER);
        text.push('\n');
    };
    let is_default = if host.is_empty() { " default_server" } else { "" };
    line(format_args!("server {{"));
    line(format_args!("  listen {}{is_default};", options.http));
    if let Some([certificate, key]) = &rules.secret {
        line(format_args!("  listen {} ssl http2{is_default};", options.https));
        line(format_args!("  ssl_certificate \"{certificate}\";"));
        line(format_args!("  ssl_certificate_key \"{key}\";"));
    }
    line(format_args!("  server_name {};", if host.is_empty() { "_" } else { host }));
    let location = |matched: &str, target: &Target| match target {
        Target::Upstream(name) => {
            format!("  location {matched} {{ proxy_pass http://{name}; }}")
        }
        Target::Nothing(why) => format!("  location {matched} {{ return 503 \"{why}\\n\"; }}"),
    };
    for (path, target) in &rules.exact {
        line(format_args!("{}", location(&format!("= \"{path}\""), target)));
    }
    for (path, target) in &rules.prefixes {
        // `/a` is the element and all below it, and not `/ab`.
        if !path.is_empty() && !rules.exact.contains_key(path) {
            line(format_args!("{}", location(&format!("= \"{path}\""), target)));
        }
        line(format_args!("{}", location(&format!("^~ \"{path}/\""), target)));
    }
    if !rules.prefixes.contains_key("") {
        match default {
            Some(target) => line(format_args!("{}", location("/", target))),
            None => line(format_args!("  location / {{ return 404 \"no Ingress rule\\n\"; }}")),
        }
    }
    line(format_args!("}}"));
}

struct Made<'a> {
    backends: Backends<'a>,
    /// By name; what stands in its braces.
    upstreams: BTreeMap<String, String>,
    /// The Secrets looked at so far, `NAMESPACE/NAME`: their files, or what is wrong.
    secrets: BTreeMap<String, Result<Files, String>>,
    options: &'a Options,
    rendered: Rendered,
}

impl Made<'_> {
    fn ingress(
        &mut self,
        ingress: &Ingress,
        snapshot: &Snapshot,
        servers: &mut BTreeMap<String, Server>,
        default: &mut Option<Target>,
    ) {
        let Some(spec) = &ingress.spec else { return };
        let own = spec.default_backend.as_ref().map(|backend| self.target(ingress, backend));
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            if !is_host(&host) {
                self.refuse(ingress, &format!("the host {host:?} cannot be written"));
                continue;
            }
            let server = servers.entry(host.clone()).or_default();
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let text = path.path.as_deref().unwrap_or("/");
                if !is_path(text) {
                    self.refuse(ingress, &format!("the path {text:?} cannot be written"));
                    continue;
                }
                let target = self.target(ingress, &path.backend);
                let (map, key) = match path.path_type.as_str() {
                    "Exact" => (&mut server.exact, text),
                    _ => (&mut server.prefixes, text.trim_end_matches('/')),
                };
                map.entry(key.to_owned()).or_insert(target);
            }
            if let Some(own) = &own {
                server.prefixes.entry(String::new()).or_insert(own.clone());
            }
            if server.secret.is_none() {
                server.secret = self.secret(ingress, &host, snapshot);
            }
        }
        if default.is_none() {
            *default = own;
        }
    }

    fn refuse(&mut self, ingress: &Ingress, why: &str) {
        let name = format!("{}/{}", ingress.namespace().unwrap_or_default(), ingress.name_any());
        let why = format!("Ingress {name}: {why}");
        if !self.rendered.refused.contains(&why) {
            self.rendered.refused.push(why);
        }
    }

    fn target(&mut self, ingress: &Ingress, backend: &IngressBackend) -> Target {
        let Some(service) = &backend.service else {
            self.refuse(ingress, "backends other than Services are not written");
            return Target::Nothing("no Service");
        };
        let namespace = ingress.namespace().unwrap_or_default();
        let port = service.port.as_ref();
        let wanted = match port.and_then(|port| port.name.as_deref()) {
            Some(name) => PortWanted::Name(name),
            None => PortWanted::Number(port.and_then(|port| port.number).unwrap_or_default()),
        };
        if self.backends.is_secured((&namespace, &service.name)) {
            // Never in the clear.
            self.refuse(ingress, "TLS towards pods is not written");
            return Target::Nothing("TLS towards its pods is not written");
        }
        let route = format!("{namespace}/{}", ingress.name_any());
        let found =
            self.backends.of((&namespace, &service.name), wanted, (&route, ingress.annotations()));
        let set = match found {
            Ok(set) => set,
            Err(_) => return Target::Nothing("no endpoint is ready"),
        };
        let port = match wanted {
            PortWanted::Name(name) => name.to_owned(),
            PortWanted::Number(number) => number.to_string(),
        };
        let own = if crate::l7::pick::Policy::is_in(ingress.annotations()) {
            format!(".{}", ingress.name_any())
        } else {
            String::new()
        };
        let name = plain(&format!("{namespace}.{}.{port}{own}", service.name));
        if !self.upstreams.contains_key(&name) {
            let body = self.upstream(ingress, &set);
            self.upstreams.insert(name.clone(), body);
        }
        Target::Upstream(name)
    }

    fn upstream(&mut self, ingress: &Ingress, set: &BackendSet) -> String {
        let policy = &set.policy;
        let mut body = String::new();
        let by = match &policy.pick {
            Pick::LeastRequest => "  least_conn;\n".to_owned(),
            Pick::RoundRobin | Pick::Weighted => String::new(),
            Pick::Hash { on, .. } => {
                let variable = match on {
                    HashOn::Client => "remote_addr".to_owned(),
                    HashOn::Header(name) => format!("http_{}", variable(name)),
                    HashOn::Cookie(name) => format!("cookie_{}", variable(name)),
                };
                format!("  hash ${variable} consistent;\n")
            }
        };
        body.push_str(&by);
        let limits = &policy.limits;
        let left_out = [
            (policy.check.is_some(), "active health checks"),
            (policy.slow_start.is_some(), "slow start"),
            (policy.prefer_near, "locality"),
            (limits.load.is_some(), "loads"),
            (limits.rate > 0 || limits.route_rate > 0, "rates"),
        ];
        for (_, what) in left_out.iter().filter(|(wanted, _)| *wanted) {
            self.refuse(ingress, &format!("nginx has no {what}; left out"));
        }
        let most =
            if limits.open > 0 { format!(" max_conns={}", limits.open) } else { String::new() };
        let fails = policy.outlier.connects;
        let rest = policy.outlier.ejection.as_secs().max(1);
        let endpoints = set.weighted();
        // With every weight at 0 nobody would be there at all; then they count alike.
        let all_zero = endpoints.iter().all(|(_, weight)| *weight == 0);
        for (address, weight) in endpoints {
            let weight = match weight {
                0 if all_zero => " weight=1".to_owned(),
                0 => " down".to_owned(),
                weight => format!(" weight={weight}"),
            };
            writeln!(
                body,
                "  server {address}{weight}{most} max_fails={fails} fail_timeout={rest}s;"
            )
            .expect(NEVER);
        }
        body.push_str("  keepalive 32;\n");
        body
    }

    /// The files with the certificate for `host`, which are written beside.
    fn secret(&mut self, ingress: &Ingress, host: &str, snapshot: &Snapshot) -> Option<Files> {
        let tls = ingress.spec.as_ref()?.tls.as_ref()?;
        let is_for = |hosts: &Vec<String>| hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
        let entry = tls.iter().find(|tls| tls.hosts.as_ref().is_none_or(is_for))?;
        let name = entry.secret_name.as_ref()?;
        let named = format!("{}/{name}", ingress.namespace().unwrap_or_default());
        let is_it = |secret: &&std::sync::Arc<Secret>| {
            secret.namespace() == ingress.namespace() && secret.name_any() == *name
        };
        let secret = snapshot.secrets.iter().find(is_it).map(|one| &**one);
        let known = match self.secrets.get(&named) {
            Some(known) => known.clone(),
            None => {
                let known = self.files(secret);
                self.secrets.insert(named, known.clone());
                known
            }
        };
        if let (Ok(_), Some(why)) = (&known, secret.and_then(refused)) {
            let what = format!("the Secret {name:?}: {why}; the certificate before it stays");
            self.refuse(ingress, &what);
        }
        known.map_err(|why| self.refuse(ingress, &format!("the Secret {name:?}: {why}"))).ok()
    }

    /// The files that the certificate in `secret` is written to, or why it is not.
    fn files(&mut self, secret: Option<&Secret>) -> Result<Files, String> {
        let secret = secret.ok_or("there is no such Secret of type kubernetes.io/tls")?;
        certificates::read(secret).map_err(|error| error.with_causes())?;
        let namespace = secret.namespace().unwrap_or_default();
        let about = plain(&format!("{namespace}.{}", secret.name_any()));
        Ok([("pem", "tls.crt"), ("key", "tls.key")].map(|(kind, part)| {
            let content = secret.data.as_ref().and_then(|data| data.get(part));
            let content = content.map(|bytes| bytes.0.clone()).unwrap_or_default();
            let beside = Beside::new(&about, kind, content);
            let path = beside.path(&self.options.file).display().to_string();
            self.rendered.beside.push(beside);
            path
        }))
    }
}

/// A host as Ingress allows it: nothing in it means anything else to nginx.
fn is_host(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    name.len() <= 253
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

/// Within quotes only these mean themselves.
fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && path
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!&'()*+,=:@".contains(&byte))
}

/// A word of nginx: what Kubernetes allows in names is one.
fn plain(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    name.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

/// As nginx names headers and cookies.
fn variable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn snapshot(rules: Value, annotations: Value) -> Snapshot {
        let ingress = json!({"metadata": {"name": "web", "namespace": "n", "annotations": annotations},
            "spec": {"ingressClassName": "berth", "rules": rules}});
        let service = json!({"metadata": {"name": "a", "namespace": "n"},
            "spec": {"ports": [{"name": "http", "port": 80}]}});
        let slice = json!({"metadata": {"name": "a-1", "namespace": "n",
                "labels": {"kubernetes.io/service-name": "a"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.42.0.2"]}, {"addresses": ["10.42.0.3"]}]});
        Snapshot {
            ingresses: vec![object(ingress)],
            services: vec![object(service)],
            slices: vec![object(slice)],
            ..Snapshot::default()
        }
    }

    fn options() -> Options {
        Options {
            class: "berth".into(),
            http: 80,
            https: 443,
            whole: false,
            pid: "/run/nginx.pid".into(),
            file: "/etc/nginx/berth.conf".into(),
            connections: 1024,
        }
    }

    fn path(text: &str, kind: &str) -> Value {
        let backend = json!({"service": {"name": "a", "port": {"name": "http"}}});
        json!({"path": text, "pathType": kind, "backend": backend})
    }

    #[test]
    fn rules_become_locations_and_endpoints_servers() {
        let rules = json!([{"host": "Web.example", "http": {"paths":
            [path("/api/", "Prefix"), path("/api", "Exact"), path("/x", "Prefix")]}}]);
        let rendered = render(&snapshot(rules, json!({"berth.dev/limit-open": "9"})), &options());
        let lines: Vec<_> = rendered.text.lines().map(str::trim).collect();
        assert_eq!(rendered.refused, [] as [String; 0]);
        for expected in [
            "upstream n.a.http.web {",
            "least_conn;",
            "server 10.42.0.2:8080 weight=1 max_conns=9 max_fails=5 fail_timeout=10s;",
            "server_name web.example;",
            "location = \"/api\" { proxy_pass http://n.a.http.web; }",
            "location ^~ \"/api/\" { proxy_pass http://n.a.http.web; }",
            "location = \"/x\" { proxy_pass http://n.a.http.web; }",
            "location ^~ \"/x/\" { proxy_pass http://n.a.http.web; }",
            "location / { return 404 \"no Ingress rule\\n\"; }",
        ] {
            let count = lines.iter().filter(|line| **line == expected).count();
            assert_eq!(count, 1, "{expected}\n{}", rendered.text);
        }
    }

    #[test]
    fn what_could_say_more_than_itself_is_refused_and_named() {
        let rules = json!([
            {"host": "a.example; return 200", "http": {"paths": [path("/", "Prefix")]}},
            {"host": "b.example", "http": {"paths":
                [path("/\" { }", "Prefix"), path("/$host", "Exact"), path("/ok", "Exact")]}}]);
        let annotations = json!({"berth.dev/slow-start": "10s", "berth.dev/pick": "hash",
            "berth.dev/hash-on": "header:X-User; evil"});
        let rendered = render(&snapshot(rules, annotations), &options());
        assert_eq!(rendered.refused.len(), 4, "{:?}", rendered.refused);
        assert!(rendered.text.contains("hash $http_x_user__evil consistent;"));
        assert!(!rendered.text.contains("return 200") && !rendered.text.contains("$host\""));
        assert!(rendered.text.contains("location = \"/ok\""));
    }
}
