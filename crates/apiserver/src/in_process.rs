//! A [`kube::Client`] over the same service as the network's, without a socket between.

use std::convert::Infallible;
use std::sync::Arc;

use http::Request;
use kube::client::Body as ClientBody;

use crate::server::{Core, Origin};
use crate::user::User;

pub(crate) fn client(core: Arc<Core>, user: User) -> kube::Client {
    let user = Arc::new(user);
    let service = tower::service_fn(move |request: Request<ClientBody>| {
        let (core, origin) = (core.clone(), Origin::Inside(user.clone()));
        async move { Ok::<_, Infallible>(core.handle(request, origin).await) }
    });
    kube::Client::new(service, "default")
}
