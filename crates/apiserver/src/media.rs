//! Which form an answer is to have, from the `Accept` header.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING};

use crate::status::Failure;
use crate::{openapi_protobuf, protobuf};

/// The media types answers can have.
pub(crate) const SERVED: &str =
    "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    /// Kubernetes' protobuf; what has no such form, as a document, comes as JSON.
    Protobuf,
    /// Protobuf, of the one document that has such a form; anything else comes as JSON.
    OpenApi,
}

/// What an answer shows of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Everything.
    Whole,
    /// Columns; of a version of `meta.k8s.io`.
    Table(String),
    /// Only the metadata; of a version of `meta.k8s.io`.
    Metadata(String),
    /// Discovery of everything at once; of a version of `apidiscovery.k8s.io`.
    Discovery(String),
}

/// A negotiated form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    pub(crate) gzip: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self { format: Format::Json, shape: Shape::Whole, gzip: false }
    }
}

impl Output {
    /// The first form in the client's order that can be had; protobuf of whole objects only where
    /// the kind that is asked for has such a form.
    pub(crate) fn negotiate(
        headers: &HeaderMap,
        has_protobuf: impl Fn() -> bool,
    ) -> Result<Self, Failure> {
        let gzip = headers
            .get(ACCEPT_ENCODING)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.split(',').any(|one| one.trim().starts_with("gzip")));
        let accept: Vec<&str> =
            headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        if accept.iter().all(|value| value.trim().is_empty()) {
            return Ok(Self { gzip, ..Self::default() });
        }
        accept
            .iter()
            .flat_map(|value| value.split(','))
            .filter_map(one)
            .find(|(format, shape)| match (format, shape) {
                (Format::Protobuf, Shape::Whole) => has_protobuf(),
                (Format::Protobuf, shape) => matches!(shape, Shape::Metadata(_)),
                _ => true,
            })
            .map(|(format, shape)| Self { format, shape, gzip })
            .ok_or_else(|| Failure::not_acceptable(SERVED))
    }
}

fn one(text: &str) -> Option<(Format, Shape)> {
    let mut parts = text.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "*/*" | "application/*" | "text/*" => Format::Json,
        "application/yaml" | "text/yaml" => Format::Yaml,
        protobuf::MEDIA_TYPE => Format::Protobuf,
        other if openapi_protobuf::ASKED.contains(&other) => Format::OpenApi,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key {
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    let meta = group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
    let shape = match kind {
        "" => Shape::Whole,
        "Table" if meta => Shape::Table(version.to_owned()),
        "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => {
            Shape::Metadata(version.to_owned())
        }
        "APIGroupDiscoveryList" if group == "apidiscovery.k8s.io" && version == "v2" => {
            Shape::Discovery(version.to_owned())
        }
        _ => return None,
    };
    Some((format, shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_first_form_that_can_be_had_is_taken() {
        let asked = |accept: &str, built_in: bool, expected: Option<(Format, Shape)>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            let got =
                Output::negotiate(&headers, || built_in).ok().map(|out| (out.format, out.shape));
            assert_eq!(got, expected, "{accept}");
        };
        let check = |accept: &str, expected| asked(accept, true, expected);
        check("", Some((Format::Json, Shape::Whole)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Table("v1".to_owned()))),
        );
        let both = "application/vnd.kubernetes.protobuf, application/json";
        check(both, Some((Format::Protobuf, Shape::Whole)));
        asked(both, false, Some((Format::Json, Shape::Whole)));
        let watch = "application/vnd.kubernetes.protobuf;stream=watch";
        check(watch, Some((Format::Protobuf, Shape::Whole)));
        asked(watch, false, None);
        let metadata =
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        asked(metadata, false, Some((Format::Protobuf, Shape::Metadata("v1".to_owned()))));
        check("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", None);
        check("application/yaml", Some((Format::Yaml, Shape::Whole)));
        check("text/html,*/*", Some((Format::Json, Shape::Whole)));
        check("application/json;as=Table;v=v9;g=meta.k8s.io", None);
    }
}
