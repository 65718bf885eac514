//! How an App is reached: Services and Ingresses.

use std::collections::BTreeMap;

use berth_api::app::{AppSpec, Header, Route};
use berth_api::{labels, release};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule,
    IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::trial::{self, Trial};
use super::{Domain, PORT_NAME, Traffic, selector};

/// The HTTP port of an App's Service.
const SERVICE_PORT: i32 = 80;
/// How the balancer picks instances for a route, and by which weights.
const PICK: &str = "berth.dev/pick";
const WEIGHTS: &str = "berth.dev/weights";

/// An App's doors.
pub struct Network<'a> {
    /// What is asked for.
    pub spec: &'a AppSpec,
    /// The App's name.
    pub name: &'a str,
    /// What its objects have in common.
    pub meta: &'a ObjectMeta,
    /// Where Apps are.
    pub domain: &'a Domain,
}

impl Network<'_> {
    /// Whether anything listens.
    pub fn has_service(&self) -> bool {
        self.spec.port.is_some() || !self.spec.ports.is_empty()
    }

    /// Its address in the cluster.
    pub fn service(&self, traffic: &Traffic) -> Option<Service> {
        let of = self.picked(traffic);
        self.has_service().then(|| self.of_type("ClusterIP", self.name, of, self.ports()))
    }

    /// The address of one release's pods alone.
    pub fn preview(&self, release: &str) -> Service {
        let traffic = Traffic { only: Some(release.to_owned()), ..Traffic::default() };
        let name = format!("{}-preview", self.name);
        self.of_type("ClusterIP", &name, self.picked(&traffic), self.ports())
    }

    /// What gives every instance a name.
    pub fn headless(&self) -> Service {
        let name = format!("{}-pods", self.name);
        let mut service = self.of_type("ClusterIP", &name, selector(self.name), self.ports());
        if let Some(spec) = &mut service.spec {
            spec.cluster_ip = Some("None".to_owned());
            spec.publish_not_ready_addresses = Some(true);
            if spec.ports.as_ref().is_some_and(Vec::is_empty) {
                spec.ports = None;
            }
        }
        service
    }

    /// Its ports on every node.
    pub fn doors(&self, traffic: &Traffic) -> Option<Service> {
        let all = self.ports();
        let ports: Vec<ServicePort> = self
            .spec
            .tcp
            .iter()
            .filter_map(|door| {
                let port = all.iter().find(|port| port.name.as_ref() == Some(&door.port))?;
                Some(ServicePort { node_port: door.node_port, ..port.clone() })
            })
            .collect();
        let name = format!("{}-tcp", self.name);
        let of = self.picked(traffic);
        (!ports.is_empty()).then(|| self.of_type("NodePort", &name, of, ports))
    }

    /// Its names, and what each instance gets of what comes by them.
    pub fn ingress(&self, traffic: &Traffic) -> Option<Ingress> {
        let routes = self.routes();
        if routes.is_empty() {
            return None;
        }
        let mut ingress = self.ingress_of(&routes, &self.host(self.name), self.name);
        if !traffic.weights.is_empty() {
            let pairs = traffic.weights.iter().map(|(pod, weight)| format!("{pod}={weight}"));
            let weights = pairs.collect::<Vec<_>>().join(",");
            let notes = ingress.metadata.annotations.get_or_insert_default();
            notes.insert(PICK.to_owned(), "weighted".to_owned());
            notes.insert(WEIGHTS.to_owned(), weights);
        }
        Some(ingress)
    }

    /// The preview's name.
    pub fn preview_ingress(&self) -> Option<Ingress> {
        self.spec.port?;
        let name = format!("{}-preview", self.name);
        let route = Route { host: None, path: "/".to_owned(), port: None, tls_secret: None };
        Some(self.ingress_of(&[route], &self.host(&name), &name))
    }

    /// What leads requests with a header to the preview.
    pub fn trial(&self, header: &Header) -> Trial {
        let routes: Vec<(Route, i32)> = self
            .routes()
            .into_iter()
            .map(|mut route| {
                let named = route.port.as_deref().and_then(|port| self.service_port(port));
                route.host.get_or_insert_with(|| self.host(self.name));
                (route, named.unwrap_or(SERVICE_PORT))
            })
            .collect();
        trial::trial(self.meta, header, &routes, &format!("{}-preview", self.name))
    }

    /// Where it answers.
    pub fn url(&self) -> Option<String> {
        self.routes().first().map(|route| url(route, &self.host(self.name), self.domain))
    }

    /// The routes that lead somewhere.
    fn routes(&self) -> Vec<Route> {
        let own = Route { host: None, path: "/".to_owned(), port: None, tls_secret: None };
        let routes = match &self.spec.routes {
            Some(routes) => routes.clone(),
            None => vec![own],
        };
        let leads = |route: &Route| match &route.port {
            Some(name) => self.service_port(name).is_some(),
            None => self.spec.port.is_some(),
        };
        routes.into_iter().filter(leads).collect()
    }

    fn host(&self, name: &str) -> String {
        format!("{name}.{}", self.domain.name)
    }

    fn service_port(&self, name: &str) -> Option<i32> {
        let found = self.ports().into_iter().find(|port| port.name.as_deref() == Some(name));
        found.map(|port| port.port)
    }

    fn picked(&self, traffic: &Traffic) -> BTreeMap<String, String> {
        let mut picked = selector(self.name);
        if let Some(release) = &traffic.only {
            picked.insert(release::LABEL.to_owned(), release.clone());
        }
        if traffic.marked {
            picked.insert(release::TRAFFIC.to_owned(), "on".to_owned());
        }
        picked
    }

    fn ports(&self) -> Vec<ServicePort> {
        let port = |name: &str, number: i32, protocol: Option<&String>| ServicePort {
            name: Some(name.to_owned()),
            port: number,
            protocol: Some(protocol.map_or("TCP", String::as_str).to_owned()),
            target_port: Some(IntOrString::String(name.to_owned())),
            ..ServicePort::default()
        };
        let http = self.spec.port.map(|_| port(PORT_NAME, SERVICE_PORT, None));
        let others = self.spec.ports.iter().map(|each| {
            port(&each.name, each.service_port.unwrap_or(each.port), each.protocol.as_ref())
        });
        http.into_iter().chain(others).collect()
    }

    fn of_type(
        &self,
        kind: &str,
        name: &str,
        selector: BTreeMap<String, String>,
        ports: Vec<ServicePort>,
    ) -> Service {
        Service {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..self.meta.clone() },
            spec: Some(ServiceSpec {
                type_: Some(kind.to_owned()),
                selector: Some(selector),
                ports: Some(ports),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    fn ingress_of(&self, routes: &[Route], host: &str, name: &str) -> Ingress {
        let mut paths: BTreeMap<String, Vec<HTTPIngressPath>> = BTreeMap::new();
        let mut secrets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for route in routes {
            let named = route.port.as_deref().and_then(|port| self.service_port(port));
            let number = Some(named.unwrap_or(SERVICE_PORT));
            let host = route.host.clone().unwrap_or_else(|| host.to_owned());
            paths.entry(host.clone()).or_default().push(HTTPIngressPath {
                path: Some(route.path.clone()),
                path_type: "Prefix".to_owned(),
                backend: IngressBackend {
                    service: Some(IngressServiceBackend {
                        name: name.to_owned(),
                        port: Some(ServiceBackendPort { number, name: None }),
                    }),
                    resource: None,
                },
            });
            if let Some(secret) = &route.tls_secret {
                let hosts = secrets.entry(secret.clone()).or_default();
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
        }
        let rule = |(host, paths)| IngressRule {
            host: Some(host),
            http: Some(HTTPIngressRuleValue { paths }),
        };
        let tls: Vec<IngressTLS> = secrets
            .into_iter()
            .map(|(secret, hosts)| IngressTLS { secret_name: Some(secret), hosts: Some(hosts) })
            .collect();
        Ingress {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..self.meta.clone() },
            spec: Some(IngressSpec {
                ingress_class_name: Some(labels::INGRESS_CLASS.to_owned()),
                rules: Some(paths.into_iter().map(rule).collect()),
                tls: Some(tls).filter(|tls| !tls.is_empty()),
                default_backend: None,
            }),
            ..Ingress::default()
        }
    }
}

fn url(route: &Route, host: &str, domain: &Domain) -> String {
    let host = route.host.as_deref().unwrap_or(host);
    let (scheme, port, usual) = match route.tls_secret {
        Some(_) => ("https", domain.https_port, 443),
        None => ("http", domain.http_port, 80),
    };
    let port = if port == usual { String::new() } else { format!(":{port}") };
    format!("{scheme}://{host}{port}{}", route.path)
}
