//! `berth sim promote`: the scheduler takes over profiles that a shadow has rehearsed.
//!
//! Writes the ConfigMap that Berth's scheduler follows, never anything else. Only profiles can be
//! promoted: the packers live in the simulator. What is written is what was shadowed, whatever the
//! file says by now.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_controllers::scheduler::{CONFIG_KEY, CONFIG_MAP, Config};
use berth_sim::Candidate;
use berth_sim::shadow::{Least, Saved, TooLittle, cluster_id, judge};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Map, Value, json};

use super::shadow::{state_file, time};
use crate::cli::{Global, on_one_thread};
use crate::connect;
use crate::failure::{Exit, Failure};

/// What `berth sim promote` takes.
#[derive(Args, Debug)]
pub struct Options {
    /// Which policy of the shadow, as it was named there (profile, profile:FILE)
    policy: String,
    /// Write without asking
    #[arg(long)]
    yes: bool,
    /// Pods that the policy must have decided about
    #[arg(long, value_name = "COUNT", default_value_t = Least::default().pods)]
    least_pods: u64,
    /// How long the shadow must have watched
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10m")]
    least_time: Duration,
}

/// No call takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Shows what would change, asks, and writes it.
///
/// # Errors
/// When the shadow saw too little, nobody agrees, or the cluster refuses.
pub fn run(global: &Global, options: &Options) -> Result<()> {
    on_one_thread(promote(global, options))
}

async fn promote(global: &Global, options: &Options) -> Result<()> {
    let file = state_file(global);
    let refuse = |message: String, hint: &str| Failure::new(Exit::Failed, message, hint);
    let saved = Saved::read(&file)?.ok_or_else(|| {
        let message = format!("no shadow has left anything at {}", file.display());
        refuse(message, "run berth sim shadow first, with the same --data-dir")
    })?;
    let least = Least {
        pods: options.least_pods,
        watched_s: options.least_time.as_secs(),
        ..Least::default()
    };
    let verdict = judge(&saved.report, &options.policy, least, Timestamp::now());
    let verdict = verdict.map_err(|error| {
        let hint = match &error {
            TooLittle::Pods { .. } | TooLittle::Watched { .. } => "let the shadow run on",
            TooLittle::Old { .. } => "let the shadow look again",
            TooLittle::Unknown { .. } => "name it as it was named to berth sim shadow",
            TooLittle::Fault { .. } | TooLittle::Worse { .. } => "shadow another policy",
        };
        refuse(error.to_string(), hint)
    })?;
    let Some(Candidate::Profiles { profiles, .. }) = saved.candidate(&options.policy) else {
        let message = format!("{} is a packer of the simulator's", options.policy);
        let hint = "the scheduler runs profiles: shadow profile:FILE, and promote that";
        return Err(refuse(message, hint).into());
    };
    let client = connect::client(global).await?;
    saved.is_of(&file, &cluster_id(&client).await?)?;

    let (namespace, name) = CONFIG_MAP;
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let found = limited(maps.get_opt(name)).await.context("reading the configuration")?;
    let text = found.as_ref().and_then(|map| map.data.as_ref()?.get(CONFIG_KEY));
    let before = text.map_or_else(|| Ok(json!({})), |text| read(text))?;
    let profiles = serde_json::to_value(profiles)?;
    let after = with_profiles(&before, profiles.as_array().map_or(&[], Vec::as_slice))?;
    let changes = changes(&before, &after)?;
    if changes.is_empty() {
        println!("nothing to promote: {namespace}/{name} says so already");
        return Ok(());
    }
    print!("{verdict}\n{namespace}/{name}, {CONFIG_KEY}:\n{changes}");
    agree(options.yes)?;

    let mut map = found.clone().unwrap_or_default();
    map.metadata.name = Some(name.to_owned());
    let data = map.data.get_or_insert_default();
    data.insert(CONFIG_KEY.to_owned(), serde_saphyr::to_string(&after)?);
    // The version that was read goes with it: who changed it meanwhile is not overwritten.
    let written = match found {
        Some(_) => limited(maps.replace(name, &PostParams::default(), &map)).await,
        None => limited(maps.create(&PostParams::default(), &map)).await,
    };
    written.context("writing the configuration")?;
    println!("written; Berth's scheduler follows it, kube-scheduler does not");
    Ok(())
}

async fn limited<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(DEADLINE, call).await;
    Ok(answer.with_context(|| format!("no answer within {} s", DEADLINE.as_secs()))??)
}

/// A configuration's text, if it is one.
fn read(text: &str) -> Result<Value> {
    let value: Value = serde_saphyr::from_str(text).context("reading the configuration")?;
    let value = if value.is_null() { json!({}) } else { value };
    let config: Config = serde_json::from_value(value.clone())
        .context("the configuration there is cannot be meant")?;
    config.validate().context("the configuration there is cannot be meant")?;
    Ok(value)
}

/// Each of `profiles` in the place of the one of its name, or at the end.
fn with_profiles(before: &Value, profiles: &[Value]) -> Result<Value> {
    let mut after = before.clone();
    let keys = after.as_object_mut().context("the configuration is no mapping")?;
    let list = keys.entry("profiles").or_insert_with(|| json!([]));
    let list = list.as_array_mut().context("`profiles` is no list")?;
    for profile in profiles {
        let short = essence(profile);
        match list.iter_mut().find(|each| name_of(each) == name_of(profile)) {
            Some(old) => *old = short,
            None => list.push(short),
        }
    }
    let config: Config = serde_json::from_value(after.clone())?;
    config.validate()?;
    Ok(after)
}

fn name_of(profile: &Value) -> &str {
    profile["schedulerName"].as_str().unwrap_or("default-scheduler")
}

/// What a profile of this name is when nothing is said.
fn default_profile(name: &str) -> Map<String, Value> {
    let mut profiles = serde_json::to_value(&Config::default().profiles).unwrap_or_default();
    let mut default = profiles[0].take();
    default["schedulerName"] = json!(name);
    default.as_object().cloned().unwrap_or_default()
}

/// A profile without what is said by saying nothing.
fn essence(profile: &Value) -> Value {
    let name = name_of(profile);
    let default = default_profile(name);
    let said = profile.as_object().into_iter().flatten();
    let said = said.filter(|(key, value)| default.get(*key) != Some(*value));
    let mut short: Map<String, Value> =
        said.map(|(key, value)| (key.clone(), value.clone())).collect();
    short.insert("schedulerName".to_owned(), json!(name));
    Value::Object(short)
}

/// What differs, key by key, as `-` and `+`; nothing when nothing does.
fn changes(before: &Value, after: &Value) -> Result<String> {
    let profile = |config: &Value, name: &str| {
        let mut whole = default_profile(name);
        let listed = config["profiles"].as_array().into_iter().flatten();
        let said = listed.clone().find(|each| name_of(each) == name).and_then(Value::as_object);
        whole.extend(said.cloned().unwrap_or_default());
        whole
    };
    let mut text = String::new();
    let names: BTreeSet<&str> =
        after["profiles"].as_array().into_iter().flatten().map(name_of).collect();
    for name in names {
        let (old, new) = (profile(before, name), profile(after, name));
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let differ: Vec<_> =
            keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).collect();
        if differ.is_empty() {
            continue;
        }
        text.push_str(&format!("  profile {name}\n"));
        for key in differ {
            for (sign, side) in [("-", &old), ("+", &new)] {
                let value = side.get(key).map(serde_json::to_string).transpose()?;
                text.push_str(&format!("{sign}   {key}: {}\n", value.unwrap_or_default()));
            }
        }
    }
    Ok(text)
}

/// A word at the terminal, or `--yes`.
fn agree(yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let message = "nobody is here to agree";
        return Err(
            Failure::new(Exit::Failed, message, "look at the changes, then say --yes").into()
        );
    }
    print!("promote it? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "yes") {
        bail!("nothing was written");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(text: &str) -> Vec<Value> {
        let config: Config = serde_json::from_str(text).unwrap();
        serde_json::to_value(config.profiles).unwrap().as_array().unwrap().clone()
    }

    #[test]
    fn a_profile_takes_the_place_of_the_one_of_its_name_and_the_rest_stays() {
        let before = read("bindings: 64\nprofiles:\n- schedulerName: berth\n  loadCeiling: 80\n");
        let before = before.unwrap();
        let packed = profiles(
            r#"{"profiles": [{"schedulerName": "default-scheduler",
                "strategy": {"type": "MostAllocated"}}]}"#,
        );
        let after = with_profiles(&before, &packed).unwrap();
        assert_eq!(after["bindings"], json!(64));
        let wanted = json!([
            { "schedulerName": "berth", "loadCeiling": 80 },
            { "schedulerName": "default-scheduler", "strategy": { "type": "MostAllocated" } },
        ]);
        assert_eq!(after["profiles"], wanted);
        assert_eq!(
            changes(&before, &after).unwrap(),
            "  profile default-scheduler\n\
             -   strategy: {\"type\":\"LeastAllocated\"}\n\
             +   strategy: {\"type\":\"MostAllocated\"}\n"
        );
        assert_eq!(changes(&after, &with_profiles(&after, &packed).unwrap()).unwrap(), "");
        // Back to what it is by default: the key goes.
        let plain = profiles(r#"{"profiles": [{"schedulerName": "berth"}]}"#);
        let back = with_profiles(&after, &plain).unwrap();
        assert_eq!(back["profiles"][0], json!({ "schedulerName": "berth" }));
        assert!(
            changes(&after, &back).unwrap().contains("-   loadCeiling: 80\n+   loadCeiling: null")
        );
        let text = serde_saphyr::to_string(&back).unwrap();
        assert_eq!(read(&text).unwrap(), back);
    }

    #[test]
    fn what_is_there_and_cannot_be_meant_is_not_built_upon() {
        for text in ["profile: []", "bindings: 0", "[", "- a"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(read("").unwrap(), json!({}));
    }
}
