//! From the rules of an HTTPRoute or GRPCRoute to rules of the table.
//!
//! A route with a word that we do not know, or with an expression or a duration that is none, is
//! refused as a whole: half a route would send requests where nobody meant them to go. A backend
//! that cannot be had is another matter: its share of the requests gets 500, the rest goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_api::gateway::{
    BackendTarget, GRPCRouteSpec, GrpcMatch, HTTPRouteSpec, HeaderChange as ApiHeaders, HttpFilter,
    HttpMatch, HttpRule, PathRewrite, ValueMatch as ApiValue, WeightedBackend, parse_duration,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::actions::{
    Filters, HeaderChange, Mirror, NewPath, Redirect, Retry, Rewrite, Route, Target, Targets,
};
use super::backends::{Backends, Port, Wanted};
use super::build::{MAX_BODY, bytes};
use super::conditions::Found;
use super::gateways::Grants;
use super::matching::{PathMatch, Rule, ValueMatch, whole};
use super::{Backend, NoEndpoints};

/// Tries beside the first that a policy may ask for.
const MOST_ATTEMPTS: i32 = 10;

/// What rules are made from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Http(&'a HTTPRouteSpec),
    Grpc(&'a GRPCRouteSpec),
}

/// What is known of the route.
pub(super) struct Context<'a> {
    pub(super) kind: &'static str,
    pub(super) namespace: &'a str,
    /// `KIND NAMESPACE/NAME`.
    pub(super) name: &'a str,
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) listener_port: u16,
    pub(super) grants: &'a Grants,
}

/// The rules, and whether everything that they refer to is there.
pub(super) struct Compiled {
    pub(super) rules: Vec<Rule>,
    pub(super) refs: Found,
}

/// The rules of `source`, or what is wrong with it.
pub(super) fn compile(
    source: Source<'_>,
    context: &Context<'_>,
    backends: &mut Backends<'_>,
) -> Result<Compiled, String> {
    let mut compiling = Compiling { context, backends, refs: Found::so("ResolvedRefs") };
    let mut rules = Vec::new();
    match source {
        Source::Http(spec) => {
            for (index, rule) in spec.rules.iter().enumerate() {
                let compiled = compiling.http(rule);
                rules.extend(compiled.map_err(|why| format!("rule {index}: {why}"))?);
            }
        }
        Source::Grpc(spec) => {
            for (index, rule) in spec.rules.iter().enumerate() {
                let then = compiling.route(&rule.filters, &rule.backend_refs, true);
                let then = Arc::new(then.map_err(|why| format!("rule {index}: {why}"))?);
                let all = [GrpcMatch::default()];
                let matches = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
                for one in matches {
                    let rule = grpc_match(one, &then);
                    rules.push(rule.map_err(|why| format!("rule {index}: {why}"))?);
                }
            }
        }
    }
    Ok(Compiled { rules, refs: compiling.refs })
}

struct Compiling<'a, 'b, 'c> {
    context: &'a Context<'a>,
    backends: &'b mut Backends<'c>,
    refs: Found,
}

impl Compiling<'_, '_, '_> {
    fn http(&mut self, rule: &HttpRule) -> Result<Vec<Rule>, String> {
        let mut then = self.route(&rule.filters, &rule.backend_refs, false)?;
        let timeouts = rule.timeouts.clone().unwrap_or_default();
        then.timeout = duration(timeouts.request.as_deref())?;
        then.backend_timeout = duration(timeouts.backend_request.as_deref())?;
        if let (Some(all), Some(one)) = (then.timeout, then.backend_timeout)
            && one > all
        {
            return Err("timeouts: backendRequest is longer than request".to_owned());
        }
        if let Some(retry) = &rule.retry {
            let codes = retry.codes.iter().map(|code| match u16::try_from(*code) {
                Ok(code @ 400..=599) => Ok(code),
                _ => Err(format!("retry: {code} is no status of an error")),
            });
            let attempts = retry.attempts.unwrap_or(1).clamp(0, MOST_ATTEMPTS);
            then.retry = Some(Retry {
                codes: codes.collect::<Result<_, _>>()?,
                attempts: usize::try_from(attempts).unwrap_or_default(),
                backoff: duration(retry.backoff.as_deref())?.unwrap_or_default(),
            });
        }
        let all = [HttpMatch::default()];
        let matches = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
        let then = Arc::new(then);
        let needs_prefix = uses_prefix(&then);
        matches
            .iter()
            .map(|one| {
                let rule = http_match(one, &then)?;
                if needs_prefix && !matches!(rule.path, PathMatch::Prefix(_)) {
                    return Err("ReplacePrefixMatch needs a path of type PathPrefix".to_owned());
                }
                Ok(rule)
            })
            .collect()
    }

    fn route(
        &mut self,
        filters: &[HttpFilter],
        named: &[WeightedBackend],
        grpc: bool,
    ) -> Result<Route, String> {
        let filters = self.filters(filters, grpc)?;
        if filters.redirect.is_some() && !named.is_empty() {
            return Err("a redirect has no backends".to_owned());
        }
        if filters.redirect.is_some() && filters.rewrite.is_some() {
            return Err("a redirect and a rewrite exclude each other".to_owned());
        }
        let targets = named
            .iter()
            .map(|one| {
                let weight = u32::try_from(one.weight.unwrap_or(1))
                    .map_err(|_| "a weight is below 0".to_owned())?;
                let filters = self.filters(&one.filters, grpc)?;
                Ok(Target::new(self.backend(&one.target, grpc), filters, weight))
            })
            .collect::<Result<_, String>>()?;
        let name = self.context.name.to_owned();
        let max_body = self.context.annotations.get(MAX_BODY).and_then(|text| bytes(text));
        Ok(Route { name, filters, targets: Targets::new(targets), max_body, ..Route::default() })
    }

    fn backend(&mut self, target: &BackendTarget, h2c: bool) -> Result<Arc<Backend>, String> {
        let found = self.find(target, h2c);
        found.map_err(|found| {
            let message = found.message.clone();
            if self.refs.is_so {
                self.refs = found;
            }
            message
        })
    }

    fn find(&mut self, target: &BackendTarget, h2c: bool) -> Result<Arc<Backend>, Found> {
        let context = self.context;
        let wrong = |reason, message| Err(Found::not("ResolvedRefs", reason, message));
        let namespace = target.namespace.as_deref().unwrap_or(context.namespace);
        let key = format!("{namespace}/{}", target.name);
        let is_service = target.group.as_deref().unwrap_or_default().is_empty()
            && target.kind.as_deref().unwrap_or("Service") == "Service";
        if !is_service {
            return wrong("InvalidKind", format!("{key} is no Service"));
        }
        let to = ("", "Service", namespace, target.name.as_str());
        if !context.grants.allow(context.kind, context.namespace, to) {
            return wrong("RefNotPermitted", format!("no ReferenceGrant for Service {key}"));
        }
        let Some(port) = target.port else {
            return wrong("InvalidKind", format!("no port of Service {key} is named"));
        };
        let wanted = Wanted {
            service: (namespace.to_owned(), target.name.clone()),
            port: Port::Number(port),
            h2c,
        };
        let backend = self.backends.get(wanted, (context.name, context.annotations));
        match backend.endpoints() {
            Err(NoEndpoints::NoService) => {
                wrong("BackendNotFound", format!("there is no Service {key}"))
            }
            Err(NoEndpoints::NoPort) => {
                wrong("BackendNotFound", format!("Service {key} has no port {port}"))
            }
            _ => Ok(backend),
        }
    }

    fn filters(&mut self, filters: &[HttpFilter], grpc: bool) -> Result<Filters, String> {
        let mut all = Filters::default();
        for filter in filters {
            let missing = || format!("filter {} lacks its field", filter.kind);
            match filter.kind.as_str() {
                "RequestHeaderModifier" => {
                    let change = filter.request_header_modifier.as_ref().ok_or_else(missing)?;
                    all.request.extend(headers(change)?);
                }
                "ResponseHeaderModifier" => {
                    let change = filter.response_header_modifier.as_ref().ok_or_else(missing)?;
                    all.response.extend(headers(change)?);
                }
                "RequestMirror" => {
                    let mirror = filter.request_mirror.as_ref().ok_or_else(missing)?;
                    let per_million = match (&mirror.percent, &mirror.fraction) {
                        (Some(percent), _) => i64::from(*percent) * 10_000,
                        (None, Some(part)) => {
                            let of = i64::from(part.denominator.unwrap_or(100)).max(1);
                            i64::from(part.numerator) * 1_000_000 / of
                        }
                        (None, None) => 1_000_000,
                    };
                    let per_million = u32::try_from(per_million.clamp(0, 1_000_000)).unwrap_or(0);
                    // One that cannot be had is named in the status, and nothing is copied to it.
                    if let Ok(backend) = self.backend(&mirror.backend_ref, grpc) {
                        all.mirrors.push(Mirror { backend, per_million });
                    }
                }
                "RequestRedirect" if !grpc => {
                    let redirect = filter.request_redirect.as_ref().ok_or_else(missing)?;
                    let scheme = match redirect.scheme.as_deref() {
                        None => None,
                        Some("http") => Some("http"),
                        Some("https") => Some("https"),
                        Some(other) => return Err(format!("a redirect to scheme {other:?}")),
                    };
                    let status = u16::try_from(redirect.status_code.unwrap_or(302)).ok();
                    let status = status.filter(|code| matches!(code, 301 | 302 | 303 | 307 | 308));
                    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
                    all.redirect = Some(Redirect {
                        scheme,
                        host: redirect.hostname.clone(),
                        path: redirect.path.as_ref().map(new_path).transpose()?,
                        port: redirect.port.and_then(|port| u16::try_from(port).ok()),
                        status: status.ok_or("a redirect's status is no redirect's")?,
                        listener_port: self.context.listener_port,
                    });
                }
                "URLRewrite" if !grpc => {
                    let rewrite = filter.url_rewrite.as_ref().ok_or_else(missing)?;
                    let host = rewrite.hostname.as_deref().map(HeaderValue::from_str).transpose();
                    all.rewrite = Some(Rewrite {
                        host: host.map_err(|_| "a rewrite's hostname is none")?,
                        path: rewrite.path.as_ref().map(new_path).transpose()?,
                    });
                }
                other => return Err(format!("filter {other} is not supported")),
            }
        }
        Ok(all)
    }
}

/// Whether a prefix is replaced, which only a rule by prefix has.
fn uses_prefix(route: &Route) -> bool {
    let is_prefix = |path: Option<&NewPath>| matches!(path, Some(NewPath::Prefix(_)));
    let of = |filters: &Filters| {
        is_prefix(filters.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()))
            || is_prefix(filters.redirect.as_ref().and_then(|redirect| redirect.path.as_ref()))
    };
    of(&route.filters) || route.targets.iter().any(|target| of(&target.filters))
}

fn duration(text: Option<&str>) -> Result<Option<Duration>, String> {
    let read = |text: &str| parse_duration(text).map_err(|error| format!("{text:?}: {error}"));
    let duration = text.map(read).transpose()?;
    Ok(duration.filter(|duration| !duration.is_zero()))
}

fn new_path(path: &PathRewrite) -> Result<NewPath, String> {
    match (path.kind.as_str(), &path.replace_full_path, &path.replace_prefix_match) {
        ("ReplaceFullPath", Some(full), _) => Ok(NewPath::Full(full.clone())),
        ("ReplacePrefixMatch", _, Some(by)) => Ok(NewPath::Prefix(by.clone())),
        (other, ..) => Err(format!("a path that is changed by {other:?}")),
    }
}

fn headers(change: &ApiHeaders) -> Result<Vec<HeaderChange>, String> {
    let name = |text: &str| {
        HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} names no header"))
    };
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| format!("{text:?} is no value of a header"))
    };
    let mut changes = Vec::new();
    for one in &change.set {
        changes.push(HeaderChange::Set(name(&one.name)?, value(&one.value)?));
    }
    for one in &change.add {
        changes.push(HeaderChange::Add(name(&one.name)?, value(&one.value)?));
    }
    for one in &change.remove {
        changes.push(HeaderChange::Remove(name(one)?));
    }
    Ok(changes)
}

fn value_match(kind: Option<&str>, text: &str) -> Result<ValueMatch, String> {
    match kind.unwrap_or("Exact") {
        "Exact" => Ok(ValueMatch::Exact(text.to_owned())),
        "RegularExpression" => expression(text).map(ValueMatch::Expression),
        other => Err(format!("a match of type {other:?}")),
    }
}

fn expression(text: &str) -> Result<regex::Regex, String> {
    whole(text).map_err(|error| format!("expression {text:?}: {error}"))
}

fn named_headers(headers: &[ApiValue]) -> Result<Vec<(HeaderName, ValueMatch)>, String> {
    let mut all: Vec<(HeaderName, ValueMatch)> = Vec::new();
    for header in headers {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| format!("{:?} names no header", header.name))?;
        // Of two for one name the first counts, as the API says.
        if all.iter().all(|(known, _)| *known != name) {
            all.push((name, value_match(header.kind.as_deref(), &header.value)?));
        }
    }
    Ok(all)
}

fn http_match(one: &HttpMatch, then: &Arc<Route>) -> Result<Rule, String> {
    let path = one.path.clone().unwrap_or_default();
    let text = path.value.as_deref().unwrap_or("/");
    let path = match path.kind.as_deref().unwrap_or("PathPrefix") {
        "Exact" => PathMatch::Exact(text.to_owned()),
        "PathPrefix" => PathMatch::prefix(text),
        "RegularExpression" => PathMatch::Expression(expression(text)?),
        other => return Err(format!("a path of type {other:?}")),
    };
    let method = one.method.as_deref().map(|method| Method::from_bytes(method.as_bytes()));
    let mut query: Vec<(String, ValueMatch)> = Vec::new();
    for parameter in &one.query_params {
        if query.iter().all(|(known, _)| *known != parameter.name) {
            let value = value_match(parameter.kind.as_deref(), &parameter.value)?;
            query.push((parameter.name.clone(), value));
        }
    }
    Ok(Rule {
        path,
        method: method.transpose().map_err(|_| "a method that is none".to_owned())?,
        headers: named_headers(&one.headers)?,
        query,
        then: then.clone(),
    })
}

/// gRPC's paths are `/SERVICE/METHOD`.
fn grpc_match(one: &GrpcMatch, then: &Arc<Route>) -> Result<Rule, String> {
    let method = one.method.clone().unwrap_or_default();
    let is_exact = match method.kind.as_deref().unwrap_or("Exact") {
        "Exact" => true,
        "RegularExpression" => false,
        other => return Err(format!("a method of type {other:?}")),
    };
    let path = match (&method.service, &method.method) {
        (None, None) => PathMatch::Prefix(String::new()),
        (Some(service), Some(method)) if is_exact => {
            PathMatch::Exact(format!("/{service}/{method}"))
        }
        (Some(service), None) if is_exact => PathMatch::prefix(&format!("/{service}")),
        (service, method) => {
            let part = |text: &Option<String>| match text {
                None => "[^/]+".to_owned(),
                Some(text) if is_exact => regex::escape(text),
                Some(text) => format!("(?:{text})"),
            };
            PathMatch::Expression(expression(&format!("/{}/{}", part(service), part(method)))?)
        }
    };
    let (method, query) = (Some(Method::POST), Vec::new());
    Ok(Rule { path, method, headers: named_headers(&one.headers)?, query, then: then.clone() })
}
