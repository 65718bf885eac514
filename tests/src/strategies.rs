//! The strategies of a release, each with its abort, under a load that may lose nothing: the same
//! on every ground and for every kind of App.
//!
//! Each goes to the other of the App's two images, is taken back half way, and then goes all the
//! way. `from` is the image that runs; the other one runs afterwards.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::apps::{Ground, PATIENCE, RATE};
use crate::{Load, Place, until};

/// So many more instances may be there than are asked for.
const SURGE: usize = 1;
/// What an image's answers are, of eight.
const ALL: [[usize; 2]; 2] = [[8, 0], [0, 8]];

/// The first version comes.
///
/// # Errors
/// When it does not.
pub fn first<P: Place>(ground: &Ground<P>, image: usize) -> Result<()> {
    ground.apply(image, &json!({ "type": "rolling" }))?;
    ground.comes_to("Succeeded", 1)?;
    let answers = || ground.answers(&ground.host(), 8).is_ok_and(|seen| seen == ALL[image]);
    until("it answers", PATIENCE, || {
        answers() && ground.pods("{.metadata.name}").is_ok_and(|pods| pods.len() == ground.replicas)
    })?;
    Ok(())
}

/// Rolling.
///
/// # Errors
/// When something does not come.
pub fn rolling<P: Place>(ground: &Ground<P>, from: usize) -> Result<()> {
    let way = json!({ "type": "rolling" });
    let next = next(ground)?;
    let most = ground.replicas + SURGE;
    ground.loses_nothing_with("rolling, aborted", most, || {
        ground.abort_half_way(1 - from, &way, next)
    })?;
    stays(ground, from)?;
    ground.loses_nothing_with("rolling", most, || {
        ground.apply(1 - from, &way)?;
        ground.comes_to("Succeeded", next + 1)?;
        Ok(())
    })?;
    only(ground, 1 - from)
}

/// Blue-green: looked at, switched, switched back; then all the way.
///
/// # Errors
/// When something does not come.
pub fn blue_green<P: Place>(ground: &Ground<P>, from: usize) -> Result<()> {
    let way = json!({ "type": "blueGreen", "keepSeconds": 20 });
    let (host, preview) = (ground.host(), format!("{}-preview.apps.berth.local", ground.app));
    let next = next(ground)?;
    let most = ground.replicas * 2;
    let goes_to = |image: usize, patience| {
        until(&format!("all requests go to image {image}"), patience, || {
            ground.answers(&host, 8).is_ok_and(|seen| seen == ALL[image])
        })
    };
    ground.loses_nothing_with("blue-green, switched back", most, || {
        ground.apply(1 - from, &way)?;
        ground.comes_to("Paused", next)?;
        until("the preview answers", PATIENCE, || ground.answers(&preview, 1).is_ok())?;
        assert_eq!(ground.answers(&preview, 8)?, ALL[1 - from], "the preview is the new version");
        assert_eq!(ground.answers(&host, 8)?, ALL[from], "everybody else gets the old one");
        ground.steer("promote")?;
        goes_to(1 - from, PATIENCE)?;
        ground.steer("abort")?;
        goes_to(from, Duration::from_secs(10))?;
        ground.comes_to("Aborted", next)?;
        Ok(())
    })?;
    stays(ground, from)?;
    ground.loses_nothing_with("blue-green", most, || {
        let way = json!({ "type": "blueGreen", "keepSeconds": 1, "autoPromote": true });
        ground.apply(1 - from, &way)?;
        ground.comes_to("Succeeded", next + 1)?;
        Ok(())
    })?;
    only(ground, 1 - from)
}

/// A canary by weight and by header.
///
/// # Errors
/// When something does not come.
pub fn canary<P: Place>(ground: &Ground<P>, from: usize) -> Result<()> {
    let by_header = json!({ "type": "canary", "steps": [{ "weight": 50 }],
        "header": { "name": "x-try", "value": "new" } });
    let way = json!({ "type": "canary", "steps": [{ "weight": 50 }] });
    let (host, next) = (ground.host(), next(ground)?);
    let most = ground.replicas + SURGE;
    let by = |value: &str, count| ground.answers_to(&host, &format!("x-try: {value}\r\n"), count);
    ground.loses_nothing_with("canary, aborted", most, || {
        ground.apply(1 - from, &by_header)?;
        ground.comes_to("Paused", next)?;
        let seen = ground.answers(&host, 60)?;
        assert!(seen[0] > 5 && seen[1] > 5, "both versions answer: {seen:?}");
        until("the header goes to the new version", PATIENCE, || {
            by("new", 20).is_ok_and(|seen| seen[1 - from] == 20)
        })?;
        let seen = by("old", 60)?;
        assert!(seen[0] > 5 && seen[1] > 5, "another value is no header of it: {seen:?}");
        ground.steer("abort")?;
        ground.comes_to("Aborted", next)?;
        Ok(())
    })?;
    stays(ground, from)?;
    assert_eq!(by("new", 8)?, ALL[from], "the header means nothing any more");
    ground.loses_nothing_with("canary", most, || {
        ground.apply(1 - from, &way)?;
        ground.comes_to("Paused", next + 1)?;
        ground.steer("promote")?;
        ground.comes_to("Succeeded", next + 1)?;
        Ok(())
    })?;
    only(ground, 1 - from)
}

/// In place: the pods stay, under the same names and addresses on the same nodes.
///
/// # Errors
/// When something does not come.
pub fn in_place<P: Place>(ground: &Ground<P>, from: usize) -> Result<()> {
    let way = json!({ "type": "inPlace" });
    let pods = || {
        ground.pods(
            "{.metadata.name} {.metadata.uid} {.spec.nodeName} {.status.podIP} {.status.startTime}",
        )
    };
    let (before, next, most) = (pods()?, next(ground)?, ground.replicas);
    ground.loses_nothing_with("in place, aborted", most, || {
        ground.abort_half_way(1 - from, &way, next)
    })?;
    assert_eq!(pods()?, before, "the same pods under the same addresses");
    stays(ground, from)?;
    ground.loses_nothing_with("in place", most, || {
        ground.apply(1 - from, &way)?;
        ground.comes_to("Succeeded", next + 1)?;
        Ok(())
    })?;
    assert_eq!(pods()?, before, "the same pods still");
    only(ground, 1 - from)
}

/// A canary of a version that fails: what the balancer counts takes it back. The App says `from`
/// again afterwards.
///
/// # Errors
/// When something does not come.
pub fn a_canary_that_fails_comes_back_by_itself<P: Place>(
    ground: &Ground<P>,
    from: usize,
) -> Result<()> {
    let weights = || -> Result<String> {
        let path = "jsonpath={.metadata.annotations.berth\\.dev/weights}";
        Ok(ground.cluster.kubectl(&["get", "ingress", &ground.app, "-o", path])?.out)
    };
    let way = json!({
        "type": "canary", "steps": [{ "weight": 30 }],
        "checks": [{ "name": "answers", "balancer": "success", "min": 99,
                     "everySeconds": 2, "failures": 2 }],
    });
    let next = next(ground)?;
    let load = Load::start(ground.cluster.http(), &ground.host(), RATE);
    ground.apply_image(&ground.failing, &way)?;
    let weighed = until("the new version has its share", PATIENCE, || {
        weights().is_ok_and(|weights| !weights.is_empty())
    });
    // Nobody says anything.
    let came = weighed.and_then(|_| ground.comes_to("Aborted", next));
    let report = load.stop();
    came?;
    let failed = report.failures.len();
    eprintln!(
        "{}, a failing canary: {failed} of {} requests failed before it was back",
        ground.app, report.sent
    );
    assert!(failed > 0, "it did answer some");
    assert!(failed * 2 < report.sent, "most went to what ran before");
    let release = ground.release()?;
    let why = release["status"]["message"].as_str().unwrap_or_default();
    let measured = why.strip_prefix("check answers says ").and_then(|rest| rest.split_once(','));
    let rate: f64 = measured.context(why.to_owned())?.0.parse()?;
    assert!((30.0..90.0).contains(&rate), "about 60 per cent were answered: {why}");
    assert!(why.contains("at least 99 is wanted"), "{why}");
    assert_eq!(weights()?, "", "nothing has a share any more");
    ground.loses_nothing("after a failing canary", || Ok(()))?;
    stays(ground, from)
}

/// The number that the next release will have.
fn next<P: Place>(ground: &Ground<P>) -> Result<i64> {
    Ok(ground.release()?["spec"]["revision"].as_i64().context("a revision")? + 1)
}

/// What was taken back is: the image answers, and the App says it again, so that the other one may
/// be tried anew.
fn stays<P: Place>(ground: &Ground<P>, image: usize) -> Result<()> {
    only(ground, image)?;
    // In place and with an address that stays, pods are made differently.
    ground.apply(image, &json!({ "type": "rolling" }))?;
    until("the App is what runs", PATIENCE, || {
        ground.release().is_ok_and(|release| release["status"]["closed"] == true)
    })?;
    Ok(())
}

fn only<P: Place>(ground: &Ground<P>, image: usize) -> Result<()> {
    let seen = ground.answers(&ground.host(), 8)?;
    ensure!(seen == ALL[image], "only image {image} answers: {seen:?}");
    Ok(())
}
