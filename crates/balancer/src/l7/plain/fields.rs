//! Header fields on their way: what is changed about a request for the pod, and about its answer for
//! the client.

use std::borrow::Cow;

use super::head::{Field, Head, is_path};
use crate::l7::routes::{Filters, HeaderChange};

/// Fields in the order in which they are written.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Fields<'a> {
    pub(super) fn with_room(fields: usize) -> Self {
        Self(Vec::with_capacity(fields))
    }

    pub(super) fn add(&mut self, name: &'a str, value: &'a [u8]) {
        self.0.push((name, value));
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    fn set(&mut self, name: &'a str, value: &'a [u8]) {
        self.remove(name);
        self.add(name, value);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    /// Changes what a rule says.
    pub(super) fn change(&mut self, changes: &'a [HeaderChange]) {
        for change in changes {
            match change {
                HeaderChange::Set(name, value) => self.set(name.as_str(), value.as_bytes()),
                HeaderChange::Add(name, value) => self.add(name.as_str(), value.as_bytes()),
                HeaderChange::Remove(name) => self.remove(name.as_str()),
            }
        }
    }

    /// Writes all, and the empty line.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// What a pod is told beside what the client said.
#[derive(Debug)]
pub(super) struct Told<'a> {
    /// The client's address.
    pub(super) client: &'a str,
    pub(super) id: &'a str,
}

/// Writes the request as the pod gets it.
pub(super) fn write_request<'a>(
    head: &Head<'_, 'a>,
    told: &Told<'a>,
    filters: &[&'a Filters; 2],
    prefix: usize,
    out: &mut Vec<u8>,
) {
    let mut fields = Fields::with_room(head.fields.len() + 8);
    for field in head.fields {
        match Field::of(field.name) {
            Field::Host | Field::AcceptEncoding | Field::Other => {
                fields.add(field.name, field.value);
            }
            Field::Connection
            | Field::Hop
            | Field::Forwarded
            | Field::RequestId
            | Field::Demanding => {}
        }
    }
    fields.add("X-Forwarded-Proto", b"http");
    fields.add("X-Forwarded-Host", head.host.as_bytes());
    fields.add("X-Forwarded-For", told.client.as_bytes());
    fields.add("X-Request-Id", told.id.as_bytes());
    let mut target = Cow::Borrowed(head.target);
    for filters in filters {
        if let Some(rewrite) = &filters.rewrite {
            if let Some(new) = &rewrite.path {
                let (path, query) = match target.split_once('?') {
                    Some((path, query)) => (path, Some(query)),
                    None => (&*target, None),
                };
                let mut path = new.of(path, prefix).into_owned();
                if let Some(query) = query {
                    path.push('?');
                    path.push_str(query);
                }
                if is_path(&path) {
                    target = Cow::Owned(path);
                }
            }
            if let Some(host) = &rewrite.host {
                fields.set("Host", host.as_bytes());
            }
        }
        fields.change(&filters.request);
    }
    for part in [head.method, " ", &*target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    fields.write(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::plain::head::{FIELDS, Found, find};
    use crate::l7::routes::{NewPath, Rewrite};
    use http::{HeaderName, HeaderValue};
    use std::mem::MaybeUninit;

    fn written(request: &str, filters: [&Filters; 2], prefix: usize) -> String {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS];
        let Found::Plain(head) = find(request.as_bytes(), &mut room) else { panic!("{request}") };
        let mut out = Vec::new();
        let told = Told { client: "192.0.2.1", id: "id-1" };
        write_request(&head, &told, &filters, prefix, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_pod_learns_of_the_client_from_us_alone() {
        let request = "GET /a?b HTTP/1.1\r\nhOst: a.example\r\nConnection: keep-alive\r\n\
                       Keep-Alive: 5\r\nX-Forwarded-For: 6.6.6.6\r\nx-real-ip: 6.6.6.6\r\n\
                       Forwarded: for=6.6.6.6\r\nX-Forwarded-Port: 1\r\nX-Request-Id: mine\r\n\
                       Accept: */*\r\n\r\n";
        let none = Filters::default();
        assert_eq!(
            written(request, [&none, &none], 0),
            "GET /a?b HTTP/1.1\r\nhOst: a.example\r\nAccept: */*\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: a.example\r\nX-Forwarded-For: 192.0.2.1\r\nX-Request-Id: id-1\r\n\r\n"
        );
    }

    #[test]
    fn rules_change_requests_one_after_the_other() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let route = Filters {
            request: vec![
                HeaderChange::Set(name("accept"), value("text/plain")),
                HeaderChange::Add(name("x-a"), value("1")),
                HeaderChange::Remove(name("cookie")),
            ],
            rewrite: Some(Rewrite {
                host: Some(value("b.example")),
                path: Some(NewPath::Prefix("/new".into())),
            }),
            ..Filters::default()
        };
        let target = Filters {
            request: vec![HeaderChange::Add(name("x-a"), value("2"))],
            ..Filters::default()
        };
        let request =
            "GET /old/x?q=1 HTTP/1.1\r\nHost: a.example\r\nCOOKIE: c\r\nAccept: */*\r\n\r\n";
        assert_eq!(
            written(request, [&route, &target], 4),
            "GET /new/x?q=1 HTTP/1.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\n\
             X-Forwarded-For: 192.0.2.1\r\nX-Request-Id: id-1\r\nHost: b.example\r\n\
             accept: text/plain\r\nx-a: 1\r\nx-a: 2\r\n\r\n"
        );
    }
}
