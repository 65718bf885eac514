//! A client for those who send many small requests: all calls share one connection of HTTP/2, and
//! each watch has one of its own.
//!
//! Calls in flight go out in few packets that way, and cost neither side a handshake and a wake-up
//! each. A watch lives long and is read by one: HTTP/1.1 carries it without windows to keep open. A
//! server that does not speak HTTP/2 is spoken to by HTTP/1.1 throughout.
//!
//! Refuses a proxy: who needs one takes [`Client::try_from`].

use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Http, Error, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, Service, ServiceBuilder};

/// How long a connection may take to come about, unless the configuration says.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A connection of HTTP/2 is asked this often whether it lives, and given as long to answer.
const PING: Duration = Duration::from_secs(15);
/// What may be under way on one stream, and on the connection: lists are long.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

type Pool = Http<HttpsConnector<HttpConnector>, Body>;

/// A client of the cluster that `config` means.
///
/// # Errors
/// As [`Client::try_from`].
pub fn connect(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let auth = config.auth_layer()?;
    let pools = Pools { calls: pool(&config, true)?, watches: pool(&config, false)? };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(auth)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(pools);
    Ok(Client::new(service, config.default_namespace))
}

fn pool(config: &Config, http2: bool) -> kube::Result<Pool> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(config.connect_timeout.unwrap_or(CONNECT_LIMIT)));
    let tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?);
    let mut tls = tls.https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into();
        let name = name.map_err(|error| kube::Error::Service(BoxError::from(error)))?;
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let tls = if http2 {
        tls.enable_http1().enable_http2().wrap_connector(connector)
    } else {
        tls.enable_http1().wrap_connector(connector)
    };
    let pool = Http::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .build(tls);
    Ok(pool)
}

/// Two pools of connections, chosen by what is asked.
#[derive(Clone)]
struct Pools {
    calls: Pool,
    watches: Pool,
}

impl Service<Request<Body>> for Pools {
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        if is_watch(request.uri().query()) {
            self.watches.request(request)
        } else {
            self.calls.request(request)
        }
    }
}

fn is_watch(query: Option<&str>) -> bool {
    let mut parts = query.unwrap_or_default().split('&');
    parts.any(|part| matches!(part, "watch=true" | "watch=1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_told_from_calls_by_the_query_alone() {
        for (query, expected) in [
            (None, false),
            (Some("limit=500&resourceVersion=0"), false),
            (Some("labelSelector=watch%3Dtrue"), false),
            (Some("&watch=true&timeoutSeconds=290"), true),
            (Some("allowWatchBookmarks=true&watch=1"), true),
        ] {
            assert_eq!(is_watch(query), expected, "{query:?}");
        }
    }
}
