//! Following the endpoints of all Services, in whichever form the API server has them.
//!
//! ```text
//!  ┌─▶ watch EndpointSlices ──404: not served──▶ watch Endpoints ─┐
//!  └──────────────── the watch broke (perhaps an upgrade) ────────┘
//! ```

use std::collections::HashMap;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Error, Event, watcher};
use kube::{Api, Client, ResourceExt};

use super::{SERVICE_NAME, slices};

/// Every EndpointSlice of a Service, as [`watcher`] would tell of them.
///
/// Like that stream it never ends, yields what went wrong, and wants a backoff around it.
pub fn follow(client: Client) -> impl Stream<Item = watcher::Result<Event<EndpointSlice>>> + Send {
    let first = Form::slices(&client);
    let events = stream::unfold((client, first), |(client, form)| async move {
        let (events, form) = next(&client, form).await?;
        Some((stream::iter(events), (client, form)))
    });
    events.flatten()
}

/// What is watched.
enum Form {
    Slices(BoxStream<'static, watcher::Result<Event<EndpointSlice>>>),
    Endpoints(BoxStream<'static, watcher::Result<Event<Endpoints>>>, Slices),
}

impl Form {
    fn slices(client: &Client) -> Self {
        let config = watcher::Config::default().labels(SERVICE_NAME);
        Self::Slices(watcher(Api::all(client.clone()), config).boxed())
    }

    fn endpoints(client: &Client) -> Self {
        let all = watcher(Api::all(client.clone()), watcher::Config::default());
        Self::Endpoints(all.boxed(), Slices::default())
    }
}

async fn next(
    client: &Client,
    form: Form,
) -> Option<(Vec<watcher::Result<Event<EndpointSlice>>>, Form)> {
    match form {
        Form::Slices(mut events) => match events.next().await? {
            Err(error) if is_not_served(&error) => Some((vec![], Form::endpoints(client))),
            event => Some((vec![event], Form::Slices(events))),
        },
        Form::Endpoints(mut events, mut slices) => match events.next().await? {
            Ok(event) => {
                let made = slices.take(event).into_iter().map(Ok).collect();
                Some((made, Form::Endpoints(events, slices)))
            }
            Err(error) => Some((vec![Err(error)], Form::slices(client))),
        },
    }
}

/// A list that is 404: there is no such kind. (A watch is only opened after a list.)
fn is_not_served(error: &Error) -> bool {
    matches!(error, Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// The slices made of each Endpoints object, by namespace and name.
#[derive(Default)]
struct Slices(HashMap<(Option<String>, String), Vec<EndpointSlice>>);

impl Slices {
    fn take(&mut self, event: Event<Endpoints>) -> Vec<Event<EndpointSlice>> {
        match event {
            Event::Init => {
                self.0.clear();
                vec![Event::Init]
            }
            Event::InitApply(object) => {
                let made = slices(&object);
                self.0.insert(key(&object), made.clone());
                made.into_iter().map(Event::InitApply).collect()
            }
            Event::InitDone => vec![Event::InitDone],
            Event::Apply(object) => self.replace(key(&object), slices(&object)),
            Event::Delete(object) => self.replace(key(&object), vec![]),
        }
    }

    /// What is new comes first: a Service whose ports change is never without endpoints.
    fn replace(
        &mut self,
        key: (Option<String>, String),
        made: Vec<EndpointSlice>,
    ) -> Vec<Event<EndpointSlice>> {
        let before =
            if made.is_empty() { self.0.remove(&key) } else { self.0.insert(key, made.clone()) };
        let is_made = |slice: &EndpointSlice| {
            made.iter().any(|other| other.metadata.name == slice.metadata.name)
        };
        let gone: Vec<_> = before
            .into_iter()
            .flatten()
            .filter(|slice| !is_made(slice))
            .map(Event::Delete)
            .collect();
        made.into_iter().map(Event::Apply).chain(gone).collect()
    }
}

fn key(object: &Endpoints) -> (Option<String>, String) {
    (object.namespace(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoints(ports: &[u16]) -> Endpoints {
        let subsets: Vec<_> = ports
            .iter()
            .map(|port| json!({"ports": [{"port": port}], "addresses": [{"ip": "10.0.0.1"}]}))
            .collect();
        let object = json!({"metadata": {"name": "web", "namespace": "n"}, "subsets": subsets});
        serde_json::from_value(object).unwrap()
    }

    /// `+80` for a slice with port 80, `-80` for its end.
    fn told(events: Vec<Event<EndpointSlice>>) -> String {
        let port = |slice: EndpointSlice| slice.ports.unwrap()[0].port.unwrap();
        let words = events.into_iter().map(|event| match event {
            Event::Init => "init".to_owned(),
            Event::InitDone => "done".to_owned(),
            Event::InitApply(slice) | Event::Apply(slice) => format!("+{}", port(slice)),
            Event::Delete(slice) => format!("-{}", port(slice)),
        });
        let mut words: Vec<_> = words.collect();
        words.sort();
        words.join(" ")
    }

    #[test]
    fn slices_that_an_object_no_longer_makes_are_deleted() {
        let mut slices = Slices::default();
        for (event, expected) in [
            (Event::Init, "init"),
            (Event::InitApply(endpoints(&[80])), "+80"),
            (Event::InitDone, "done"),
            (Event::Apply(endpoints(&[80, 90])), "+80 +90"),
            (Event::Apply(endpoints(&[90])), "+90 -80"),
            (Event::Apply(endpoints(&[70])), "+70 -90"),
            (Event::Delete(endpoints(&[70])), "-70"),
            (Event::Delete(endpoints(&[70])), ""),
            (Event::Apply(endpoints(&[80])), "+80"),
            (Event::Init, "init"),
            (Event::Apply(endpoints(&[90])), "+90"),
        ] {
            assert_eq!(told(slices.take(event)), expected);
        }
    }
}
