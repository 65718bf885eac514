//! A [`kube::Client`] over the same service as the network's, without a socket between.

use std::convert::Infallible;
use std::sync::Arc;

use http::Request;
use kube::client::Body as ClientBody;

use crate::server::{Core, Inside};
use crate::user::User;

pub(crate) fn client(core: Arc<Core>, user: User) -> kube::Client {
    let service = tower::service_fn(move |mut request: Request<ClientBody>| {
        request.extensions_mut().insert(Inside(user.clone()));
        let core = core.clone();
        async move { Ok::<_, Infallible>(core.handle(request).await) }
    });
    kube::Client::new(service, "default")
}
