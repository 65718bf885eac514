//! The way of every request: who, may he, where to.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use berth_daemon::Tasks;
use berth_schema::{Catalog, Resource};
use berth_store::Store;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::OnUpgrade;

use crate::admission::matched::Guards;
use crate::audit::{Audit, Source, Trail};
use crate::call::Call;
use crate::connect::Settings;
use crate::documents::Documents;
use crate::kubelet::Kubelet;
use crate::limits::{Admitted, Limits};
use crate::media::{Output, Shape};
use crate::metrics::Metrics;
use crate::path::{Query, Target};
use crate::rbac::{self, Index};
use crate::respond::{self, Body, BodyError};
use crate::rules::service::Allocations;
use crate::status::Failure;
use crate::tokens::Signer;
use crate::user::User;
use crate::{discovery, metrics_api, protobuf, proxy, reviews, subresources, verbs};

/// As much of an unwanted body as Go's server reads before it answers.
const DRAINED: usize = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// What all requests share.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: RwLock<Catalog>,
    pub(crate) rbac: Index,
    pub(crate) guards: Guards,
    pub(crate) signer: Signer,
    pub(crate) settings: Settings,
    pub(crate) allocations: Allocations,
    pub(crate) kubelet: Kubelet,
    pub(crate) proxies: proxy::Links,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) frames: verbs::Frames,
    pub(crate) limits: Limits,
    pub(crate) audit: Audit,
    pub(crate) documents: Documents,
    pub(crate) usage: metrics_api::Readings,
    pub(crate) tasks: Tasks,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// From within the process, as this user.
    Inside(Arc<User>),
    /// Over the network.
    Network {
        /// The user of the connection's verified client certificate, if it showed one.
        shown: Option<Arc<User>>,
        /// From where.
        source: Option<Source>,
    },
}

impl Origin {
    fn source(&self) -> Option<Source> {
        match self {
            Self::Inside(_) => None,
            Self::Network { source, .. } => *source,
        }
    }
}

/// What is known of a request before its body is read.
struct Head {
    parts: Parts,
    origin: Origin,
    query: Query,
    target: Arc<Target>,
    output: Output,
}

impl Core {
    /// A served resource, or 404.
    pub(crate) fn resource(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Arc<Resource>, Failure> {
        let catalog = self.catalog.read().expect("nothing panics while holding it");
        catalog.resource(group, version, plural).cloned().ok_or_else(Failure::no_such_path)
    }

    /// Whether what a request is about has a protobuf form. Refusals, reviews and the like do.
    fn has_protobuf(&self, target: &Target) -> bool {
        let resource = self.resource(&target.group, &target.version, &target.resource);
        resource.map_or(true, |resource| {
            resource.custom.is_none() && protobuf::is_known(&resource.api_version(), &resource.kind)
        })
    }

    /// Who tokens for this API are made for; also who makes them.
    pub(crate) fn audience(&self) -> String {
        self.signer.issuer().to_owned()
    }

    /// Answers a request.
    ///
    /// This future is moved about several times for each request: whatever is large and not on the
    /// way of a plain read is in a box.
    pub(crate) async fn handle<B>(
        self: &Arc<Self>,
        request: Request<B>,
        origin: Origin,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let target = Target::parse(&parts.method, parts.uri.path(), &query);
        if parts.version == Version::HTTP_2 && target.verb != "get" {
            // What takes longer than a read is a task of its own (see `tls::inline`).
            tokio::task::yield_now().await;
        }
        let target = Arc::new(target);
        let trail = self.audit.begin(&parts, origin.source(), &target, &query);
        let mut negotiated = Output::negotiate(&parts.headers, || self.has_protobuf(&target));
        if proxy::is_one(&target) {
            // What the client accepts is for the other end to look at.
            negotiated = negotiated.or_else(|_| Ok(Output::default()));
        }
        let mut response = match negotiated {
            Err(failure) => respond::failure(&failure, &Output::default()),
            Ok(output) => {
                // A Status is shown whole, whatever shape the object was asked for in.
                let plain = Output { shape: Shape::Whole, ..output.clone() };
                let head = Head { parts, origin, query, target: target.clone(), output };
                self.answer(head, body, &trail)
                    .await
                    .unwrap_or_else(|failure| respond::failure(&failure, &plain))
            }
        };
        trail.finish(&mut response);
        self.metrics.count(&target, response.status().as_u16(), started.elapsed());
        response
    }

    async fn answer<B>(
        self: &Arc<Self>,
        head: Head,
        body: B,
        trail: &Trail<'_>,
    ) -> Result<Response<Body>, Failure>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let Head { mut parts, origin, query, target, output } = head;
        let source = origin.source();
        let may = self.may(&parts.headers, origin, &query, &target, trail).await;
        let (user, place) = match may {
            Ok(may) => may,
            Err(failure) => {
                Box::pin(drain(body)).await;
                return Err(failure);
            }
        };
        let is_proxied = proxy::is_one(&target);
        let mut call = Call {
            user,
            method: parts.method,
            target,
            query,
            headers: parts.headers,
            body: Bytes::new(),
            output,
            upgrade: parts.extensions.remove::<OnUpgrade>(),
            notes: Arc::default(),
        };
        let notes = Arc::clone(&call.notes);
        let plain = Output { shape: Shape::Whole, ..call.output.clone() };
        // Kept until the request has been worked on.
        let mut _room = None;
        let answer = if is_proxied {
            let body = body.map_err(Into::into).boxed_unsync();
            Box::pin(proxy::answer(self, call, &parts.uri, source, body)).await
        } else {
            if !matches!(call.method, Method::GET | Method::HEAD | Method::OPTIONS) {
                let read = Box::pin(self.limits.bodies.read(&call.headers, body)).await?;
                call.body = to_json(&mut call.headers, read.bytes)?;
                _room = read.room;
            }
            self.dispatch(call).await
        };
        let mut response = answer.unwrap_or_else(|failure| respond::failure(&failure, &plain));
        let told = notes.take();
        respond::warn(&mut response, &told.warnings);
        trail.told(told);
        place.mark(response.headers_mut());
        Ok(response)
    }

    /// Who asks, and whether he may now.
    async fn may(
        self: &Arc<Self>,
        headers: &HeaderMap,
        origin: Origin,
        query: &Query,
        target: &Target,
        trail: &Trail<'_>,
    ) -> Result<(Arc<User>, Admitted), Failure> {
        let user = match origin {
            Origin::Inside(user) => user,
            Origin::Network { shown: Some(shown), .. } if !headers.contains_key(AUTHORIZATION) => {
                shown
            }
            Origin::Network { .. } => Box::pin(self.authenticate(headers)).await?,
        };
        let own = trail.is_logged().then(|| user.clone());
        // Who acts as nobody has proved who he is all the same.
        let is_stranger = user.is_anonymous();
        let user = self.impersonate(headers, user)?;
        if let Some(own) = own {
            trail.who(&own, &user);
            trail.decided(self.rbac.reason(&user, target));
        }
        let place = self.limits.admit(&user, target, is_long(target, query)).await?;
        if !self.rbac.allows(&user, target) {
            if is_stranger && target.is_resource {
                return Err(Failure::unauthorized());
            }
            return Err(Failure::forbidden_target(target, rbac::refusal(&user, target)));
        }
        if !rbac::node::allows(self, &user, target).await? {
            let message = rbac::node::refusal(&user, target);
            return Err(Failure::forbidden_target(target, message));
        }
        Ok((user, place))
    }

    async fn dispatch(self: &Arc<Self>, call: Call) -> Result<Response<Body>, Failure> {
        if !call.target.is_resource {
            return Box::pin(discovery::answer(self, &call)).await;
        }
        let target = &call.target;
        if let Some(review) = reviews::named(target) {
            let code = StatusCode::CREATED;
            let answer = Box::pin(reviews::answer(self, &call, review)).await?;
            return Ok(respond::value(code, &answer, &call.output));
        }
        let resource = self.resource(&target.group, &target.version, &target.resource)?;
        if let Some(warning) = resource.custom.as_ref().and_then(|own| own.deprecation.as_ref()) {
            call.notes.warn(warning);
        }
        let is_all = target.namespace.is_empty() || target.resource == "namespaces";
        if !resource.namespaced && !is_all {
            return Err(Failure::no_such_path());
        }
        if target.subresource.is_empty() && !fits(target) {
            return Err(Failure::method_not_allowed());
        }
        if resource.namespaced
            && target.namespace.is_empty()
            && !matches!(target.verb.as_str(), "list" | "watch")
        {
            return Err(Failure::method_not_allowed());
        }
        if target.group == metrics_api::GROUP {
            return Box::pin(metrics_api::answer(self, &call, &resource)).await;
        }
        if !target.subresource.is_empty() {
            return Box::pin(subresources::answer(self, call, &resource)).await;
        }
        if resource.group.is_empty() && resource.plural == "bindings" {
            return Box::pin(subresources::bind_named(self, &call)).await;
        }
        verbs::answer(self, &call, &resource).await
    }
}

/// Whether a verb is for one object or for the collection, as the path is.
fn fits(target: &Target) -> bool {
    match target.verb.as_str() {
        "create" => target.name.is_empty(),
        "update" | "patch" => !target.name.is_empty(),
        _ => true,
    }
}

/// Whether a request waits rather than works.
fn is_long(target: &Target, query: &Query) -> bool {
    target.verb == "watch"
        || matches!(target.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
        || (target.subresource == "log" && query.is_on("follow"))
}

/// Turns a protobuf body into the JSON that says the same.
fn to_json(headers: &mut HeaderMap, body: Bytes) -> Result<Bytes, Failure> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with(protobuf::MEDIA_TYPE)) {
        return Ok(body);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if body.is_empty() {
        return Ok(body);
    }
    match protobuf::decode(&body) {
        Ok(object) => Ok(Bytes::from(object.to_string())),
        Err(error) => Err(Failure::bad_request(error.to_string())),
    }
}

/// Reads a little of a body that nobody wants: clients that are still sending would else see the
/// stream break off instead of the answer.
async fn drain<B>(body: B)
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BodyError>,
{
    let limited = std::pin::pin!(Limited::new(body, DRAINED));
    // Whether it ends, breaks off or is too long: the answer is the same.
    let _ = tokio::time::timeout(DRAIN_TIME, limited.collect()).await;
}
