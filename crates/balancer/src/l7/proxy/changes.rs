//! What a rule changes about a request and its answer.

use http::header;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Result;

use crate::l7::routes::{Filters, HeaderChange};

/// Changes what the backend sees; the first `prefix` bytes of the path are what the rule named.
pub(super) fn request(
    upstream: &mut RequestHeader,
    filters: &Filters,
    prefix: usize,
) -> Result<()> {
    if let Some(rewrite) = &filters.rewrite {
        if let Some(new) = &rewrite.path {
            let uri = &upstream.uri;
            let mut path = new.of(uri.path(), prefix).into_owned();
            if let Some(query) = uri.query() {
                path.push('?');
                path.push_str(query);
            }
            let mut parts = upstream.uri.clone().into_parts();
            if let Ok(path) = path.parse() {
                parts.path_and_query = Some(path);
                if let Ok(uri) = http::Uri::from_parts(parts) {
                    upstream.set_uri(uri);
                }
            }
        }
        if let Some(host) = &rewrite.host {
            upstream.insert_header(header::HOST, host.clone())?;
        }
    }
    for change in &filters.request {
        match change {
            HeaderChange::Set(name, value) => upstream.insert_header(name, value.clone())?,
            HeaderChange::Add(name, value) => {
                upstream.append_header(name, value.clone())?;
            }
            HeaderChange::Remove(name) => {
                upstream.remove_header(name);
            }
        }
    }
    Ok(())
}

/// Changes what the client sees.
pub(super) fn response(response: &mut ResponseHeader, filters: &Filters) -> Result<()> {
    for change in &filters.response {
        match change {
            HeaderChange::Set(name, value) => response.insert_header(name, value.clone())?,
            HeaderChange::Add(name, value) => {
                response.append_header(name, value.clone())?;
            }
            HeaderChange::Remove(name) => {
                response.remove_header(name);
            }
        }
    }
    Ok(())
}
