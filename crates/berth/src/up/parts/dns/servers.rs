//! The DNS servers of a cluster, asked in their pods: each by its own control socket.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{AttachParams, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::failure::{Exit, Failure};
use crate::pods;

const NAMESPACE: &str = "kube-system";
const OURS: &str = "app.kubernetes.io/name=berth-dns";

/// What each server says to `berth dns VERB…`, by `POD/CONTAINER`.
///
/// # Errors
/// When there is no server, or one of them cannot be asked.
pub async fn ask(client: &Client, verb: &[String]) -> Result<Map<String, Value>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut said = Map::new();
    for pod in api.list(&ListParams::default().labels(OURS)).await?.items {
        if !pods::is_ready(&pod) || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for (container, control) in containers.filter_map(|one| Some((one, control(one)?))) {
            let server = format!("{}/{}", pod.name_any(), container.name);
            let mut command = vec!["/berth".to_owned(), "dns".to_owned()];
            command.extend(verb.iter().cloned());
            command.extend(["--control".to_owned(), control.to_owned()]);
            let answer = run(&api, &pod.name_any(), &container.name, command).await;
            let answer = answer.with_context(|| format!("asking the DNS server {server}"))?;
            said.insert(server, answer);
        }
    }
    if said.is_empty() {
        let message = "no DNS server of this cluster can be asked";
        let hint = "`--control SOCKET` asks one that runs elsewhere on this machine";
        return Err(Failure::new(Exit::Failed, message, hint).into());
    }
    Ok(said)
}

/// The lists of all servers as one, the longest `count` of each.
pub fn together(said: &Map<String, Value>, count: usize) -> Value {
    let list = |key: &str| {
        let mut all = Map::<String, Value>::new();
        for row in said.values().flat_map(|one| one[key].as_array().into_iter().flatten()) {
            let Some(what) = row["what"].as_str() else { continue };
            let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or_default();
            let known = all.get(what).cloned().unwrap_or_default();
            let sum = |key: &str| number(row, key) + number(&known, key);
            let (queries, over) = (sum("queries"), sum("atMostTooHighBy"));
            let row = json!({ "what": what, "queries": queries, "atMostTooHighBy": over });
            all.insert(what.to_owned(), row);
        }
        let mut all: Vec<Value> = all.into_iter().map(|(_, row)| row).collect();
        all.sort_by_key(|row| std::cmp::Reverse(row["queries"].as_u64()));
        all.truncate(count);
        all
    };
    json!({ "names": list("names"), "clients": list("clients") })
}

/// The control socket that the container's server was told of.
fn control(container: &Container) -> Option<&str> {
    let words = [&container.command, &container.args].into_iter().flatten().flatten();
    let mut rest = words.skip_while(|word| *word != "--control");
    rest.next()?;
    rest.next().map(String::as_str)
}

/// Runs a command that prints JSON.
async fn run(api: &Api<Pod>, pod: &str, container: &str, command: Vec<String>) -> Result<Value> {
    let params = AttachParams::default().stdout(true).stderr(true).container(container);
    let mut process = api.exec(pod, command, &params).await?;
    let (mut output, mut errors) = (process.stdout(), process.stderr());
    let status = process.take_status().context("the stream of the command's status")?;
    let (said, wrong, status) = tokio::join!(all(&mut output), all(&mut errors), status);
    let good = status.is_some_and(|status| status.status.as_deref() == Some("Success"));
    ensure!(good, "{}", String::from_utf8_lossy(&wrong?).trim());
    Ok(serde_json::from_slice(&said?)?)
}

async fn all(stream: &mut Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_two_servers_are_one() {
        let row = |what: &str, queries: u32| json!({ "what": what, "queries": queries, "atMostTooHighBy": 1 });
        let one =
            json!({ "names": [row("a.", 5), row("b.", 3)], "clients": [row("192.0.2.1", 8)] });
        let two = json!({ "names": [row("b.", 4), row("c.", 1)], "clients": [] });
        let said = Map::from_iter([("x/dns-0".to_owned(), one), ("x/dns-1".to_owned(), two)]);
        let all = together(&said, 2);
        assert_eq!(all["names"][0], json!({ "what": "b.", "queries": 7, "atMostTooHighBy": 2 }));
        assert_eq!(all["names"][1]["what"], "a.");
        assert_eq!(
            (all["names"].as_array().map(Vec::len), &all["clients"][0]["queries"]),
            (Some(2), &json!(8))
        );
    }

    #[test]
    fn a_server_is_asked_where_it_was_told_to_listen() {
        let words = |list: &[&str]| Some(list.iter().map(|word| (*word).to_owned()).collect());
        let with = |command, args| Container { command, args, ..Container::default() };
        let server = with(words(&["/berth", "dns"]), words(&["--control", "/run/x"]));
        assert_eq!(control(&server), Some("/run/x"));
        assert_eq!(control(&with(None, words(&["dns", "--listen", "x"]))), None);
    }
}
