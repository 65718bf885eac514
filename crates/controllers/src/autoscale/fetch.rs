//! Reading metrics: resources from metrics.k8s.io, others from custom. and external.metrics.k8s.io.
//!
//! An API that is not there is an answer as well: its error is what the condition says.

use std::time::Duration;

use berth_api::{Quantity, Selector};
use http::Request;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{MetricIdentifier, MetricSpec};
use kube::Client;
use kube::core::GroupVersionKind;
use serde_json::Value;

use super::plan::Reading;
use super::replicas::{Sample, Samples};
use crate::driver::chain;

const LIMIT: Duration = Duration::from_secs(10);
const RESOURCE: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";

/// Reads one metric of the pods that `selector` picks.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    selector: &str,
    metric: &MetricSpec,
) -> Result<Reading, String> {
    match metric.type_.as_str() {
        "Resource" => {
            let own = metric.resource.as_ref().ok_or("resource is missing")?;
            resource(client, namespace, selector, &own.name, None).await
        }
        "ContainerResource" => {
            let own = metric.container_resource.as_ref().ok_or("containerResource is missing")?;
            resource(client, namespace, selector, &own.name, Some(&own.container)).await
        }
        "Pods" => {
            let own = metric.pods.as_ref().ok_or("pods is missing")?;
            let path = format!(
                "{CUSTOM}/namespaces/{namespace}/pods/%2A/{}?labelSelector={}{}",
                own.metric.name,
                escape(selector),
                metric_selector(&own.metric, "&metricLabelSelector=")?,
            );
            let list = get(client, &path).await.map_err(|error| {
                let name = &own.metric.name;
                format!(
                    "unable to get metric {name}: unable to fetch metrics from custom metrics \
                     API: {error}"
                )
            })?;
            Ok(Reading::Pods(custom(&list)))
        }
        "Object" => object(client, namespace, metric).await,
        "External" => {
            let own = metric.external.as_ref().ok_or("external is missing")?;
            let name = &own.metric.name;
            let path = format!(
                "{EXTERNAL}/namespaces/{namespace}/{name}{}",
                metric_selector(&own.metric, "?labelSelector=")?,
            );
            let failed = |error: String| {
                format!(
                    "unable to get external metric {namespace}/{name}: unable to fetch metrics \
                     from external metrics API: {error}"
                )
            };
            let list = get(client, &path).await.map_err(failed)?;
            let items = list["items"].as_array().into_iter().flatten();
            let values: Vec<i64> = items.filter_map(|item| millis(&item["value"])).collect();
            if values.is_empty() {
                return Err(failed("no metrics returned from external metrics API".to_owned()));
            }
            Ok(Reading::One(values.iter().sum()))
        }
        other => Err(format!("unknown metric source type {other:?}")),
    }
}

async fn object(client: &Client, namespace: &str, metric: &MetricSpec) -> Result<Reading, String> {
    let own = metric.object.as_ref().ok_or("object is missing")?;
    let about = &own.described_object;
    let failed = |error: String| {
        format!(
            "unable to get metric {}: {} on {namespace} {}: {error}",
            own.metric.name, about.kind, about.name
        )
    };
    let gvk = gvk(about.api_version.as_deref().unwrap_or_default(), &about.kind);
    let found = tokio::time::timeout(LIMIT, kube::discovery::pinned_kind(client, &gvk)).await;
    let (resource, _) = found
        .map_err(|_| failed("no answer in time".to_owned()))?
        .map_err(|error| failed(chain(&error)))?;
    let plural = match resource.group.as_str() {
        "" => resource.plural,
        group => format!("{}.{group}", resource.plural),
    };
    let path = format!(
        "{CUSTOM}/namespaces/{namespace}/{plural}/{}/{}{}",
        about.name,
        own.metric.name,
        metric_selector(&own.metric, "?metricLabelSelector=")?,
    );
    let list = get(client, &path).await.map_err(failed)?;
    let value = millis(&list["items"][0]["value"]);
    value.map(Reading::One).ok_or_else(|| failed("no metrics returned".to_owned()))
}

async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Reading, String> {
    let path = format!("{RESOURCE}/namespaces/{namespace}/pods?labelSelector={}", escape(selector));
    let failed = |error: String| {
        format!(
            "unable to get metrics for resource {resource}: unable to fetch metrics from resource \
             metrics API: {error}"
        )
    };
    let list = get(client, &path).await.map_err(failed)?;
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        return Err(format!(
            "unable to get metrics for resource {resource}: no metrics returned from resource \
             metrics API"
        ));
    }
    Ok(Reading::Pods(usage(items, resource, container)))
}

/// What each pod of a PodMetricsList uses; a pod of which a container is not told of is left out.
fn usage(items: &[Value], resource: &str, container: Option<&str>) -> Samples {
    let of = |item: &Value| {
        let all = item["containers"].as_array()?.iter();
        let wanted: Vec<&Value> =
            all.filter(|one| container.is_none_or(|name| one["name"] == name)).collect();
        if wanted.is_empty() {
            return None;
        }
        let values: Option<Vec<i64>> =
            wanted.iter().map(|one| millis(&one["usage"][resource])).collect();
        let sample = Sample {
            value: values?.iter().sum(),
            at: item["timestamp"].as_str()?.parse().ok()?,
            window: go_duration(item["window"].as_str().unwrap_or_default()),
        };
        Some((item["metadata"]["name"].as_str()?.to_owned(), sample))
    };
    items.iter().filter_map(of).collect()
}

fn custom(list: &Value) -> Samples {
    let of = |item: &Value| {
        let sample = Sample {
            value: millis(&item["value"])?,
            at: item["timestamp"].as_str()?.parse().unwrap_or(Timestamp::UNIX_EPOCH),
            window: SignedDuration::from_secs(item["windowSeconds"].as_i64().unwrap_or(60)),
        };
        Some((item["describedObject"]["name"].as_str()?.to_owned(), sample))
    };
    list["items"].as_array().into_iter().flatten().filter_map(of).collect()
}

fn millis(value: &Value) -> Option<i64> {
    Some(value.as_str()?.parse::<Quantity>().ok()?.millis())
}

/// A duration as Go writes it: `1m0.5s`.
fn go_duration(text: &str) -> SignedDuration {
    let mut seconds = 0.0;
    let mut number = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_ascii_digit() || letter == '.' {
            number.push(letter);
            continue;
        }
        let unit = match (letter, letters.peek()) {
            ('h', _) => 3600.0,
            ('m', Some('s')) => 0.001,
            ('m', _) => 60.0,
            ('s', _) => 1.0,
            _ => 0.0,
        };
        seconds += number.parse::<f64>().unwrap_or(0.0) * unit;
        number.clear();
    }
    SignedDuration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn metric_selector(metric: &MetricIdentifier, start: &str) -> Result<String, String> {
    let Some(selector) = &metric.selector else { return Ok(String::new()) };
    let selector = Selector::from_object(Some(selector)).map_err(|error| error.to_string())?;
    Ok(format!("{start}{}", escape(&selector.to_string())))
}

/// The kind that an `apiVersion` and a `kind` name.
pub(super) fn gvk(api_version: &str, kind: &str) -> GroupVersionKind {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let version = if version.is_empty() { "v1" } else { version };
    GroupVersionKind::gvk(group, version, kind)
}

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    match tokio::time::timeout(LIMIT, client.request::<Value>(request)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [("15s", 15_000), ("1m0.5s", 60_500), ("20ms", 20), ("", 0)] {
            assert_eq!(go_duration(text).as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn a_pods_usage_is_that_of_its_containers() {
        let items = [json!({
            "metadata": { "name": "web" }, "timestamp": "2026-01-01T00:00:00Z", "window": "15s",
            "containers": [
                { "name": "a", "usage": { "cpu": "100m", "memory": "1Ki" } },
                { "name": "b", "usage": { "cpu": "1500000n" } },
            ],
        })];
        let value = |resource: &str, container: Option<&str>| {
            usage(&items, resource, container).get("web").map(|sample| sample.value)
        };
        assert_eq!(value("cpu", None), Some(102));
        assert_eq!(value("cpu", Some("a")), Some(100));
        assert_eq!(value("memory", None), None);
        assert_eq!(value("memory", Some("a")), Some(1_024_000));
        assert_eq!(value("cpu", Some("c")), None);
    }
}
