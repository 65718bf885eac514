//! Releases under load: no strategy and no abort loses a request, with real containers.

use std::time::Duration;

use anyhow::{Context, Result};
use berth_tests::apps::{Ground, HOST, PATIENCE, RATE};
use berth_tests::{Load, can_run_clusters, until};
use serde_json::json;

const PREVIEW: &str = "svc-preview.apps.berth.local";

#[test]
fn no_strategy_and_no_abort_loses_a_request() -> Result<()> {
    if !can_run_clusters("releases under load") {
        return Ok(());
    }
    let ground = Ground::start()?;
    ground.apply(0, &json!({ "type": "rolling" }))?;
    ground.comes_to("Succeeded", 1)?;
    until("it answers", PATIENCE, || ground.answers(HOST, 1).is_ok())?;
    rolling(&ground)?;
    blue_green(&ground)?;
    canary(&ground)?;
    in_place(&ground)?;
    an_address_that_stays(&ground)?;
    a_canary_that_fails_comes_back_by_itself(&ground)?;
    a_freeze_holds_and_a_rollback_passes(&ground)
}

fn rolling(ground: &Ground) -> Result<()> {
    let way = json!({ "type": "rolling" });
    ground.loses_nothing("rolling", || {
        ground.apply(1, &way)?;
        ground.comes_to("Succeeded", 2)?;
        Ok(())
    })?;
    assert_eq!(ground.answers(HOST, 8)?, [0, 8]);
    ground.loses_nothing("rolling, aborted", || ground.abort_half_way(0, &way, 3))?;
    assert_eq!(ground.answers(HOST, 8)?, [0, 8], "what ran before answers");
    // The App says what runs again.
    ground.apply(1, &way)
}

fn blue_green(ground: &Ground) -> Result<()> {
    let way = json!({ "type": "blueGreen", "keepSeconds": 20 });
    ground.loses_nothing("blue-green, switched back", || {
        ground.apply(0, &way)?;
        let revision = ground.comes_to("Paused", 4)?;
        until("the preview answers", PATIENCE, || ground.answers(PREVIEW, 1).is_ok())?;
        assert_eq!(ground.answers(PREVIEW, 4)?, [4, 0], "the preview is the new version");
        assert_eq!(ground.answers(HOST, 8)?, [0, 8], "everybody else gets the old one");
        ground.steer("promote")?;
        until("all requests go to the new", PATIENCE, || {
            ground.answers(HOST, 8).is_ok_and(|seen| seen == [8, 0])
        })?;
        ground.steer("abort")?;
        until("all requests are back", Duration::from_secs(10), || {
            ground.answers(HOST, 8).is_ok_and(|seen| seen == [0, 8])
        })?;
        ground.comes_to("Aborted", revision)?;
        Ok(())
    })?;
    ground.apply(1, &way)?;
    ground.loses_nothing("blue-green", || {
        ground.apply(0, &json!({ "type": "blueGreen", "keepSeconds": 1, "autoPromote": true }))?;
        ground.comes_to("Succeeded", 5)?;
        Ok(())
    })?;
    assert_eq!(ground.answers(HOST, 8)?, [8, 0]);
    Ok(())
}

fn canary(ground: &Ground) -> Result<()> {
    let way = json!({ "type": "canary", "steps": [{ "weight": 50 }] });
    let by_header = json!({ "type": "canary", "steps": [{ "weight": 50 }],
        "header": { "name": "x-try", "value": "new" } });
    ground.loses_nothing("canary, aborted", || {
        ground.apply(1, &by_header)?;
        let revision = ground.comes_to("Paused", 6)?;
        let seen = ground.answers(HOST, 60)?;
        assert!(seen[0] > 5 && seen[1] > 5, "both versions answer: {seen:?}");
        until("the header goes to the new version", PATIENCE, || {
            ground.answers_to(HOST, "x-try: new\r\n", 20).is_ok_and(|seen| seen == [0, 20])
        })?;
        let seen = ground.answers_to(HOST, "x-try: old\r\n", 60)?;
        assert!(seen[0] > 5 && seen[1] > 5, "another value is no header of it: {seen:?}");
        ground.steer("abort")?;
        ground.comes_to("Aborted", revision)?;
        Ok(())
    })?;
    assert_eq!(ground.answers(HOST, 8)?, [8, 0]);
    let seen = ground.answers_to(HOST, "x-try: new\r\n", 8)?;
    assert_eq!(seen, [8, 0], "the header means nothing any more");
    ground.apply(0, &way)?;
    ground.loses_nothing("canary", || {
        ground.apply(1, &way)?;
        let revision = ground.comes_to("Paused", 7)?;
        ground.steer("promote")?;
        ground.comes_to("Succeeded", revision)?;
        Ok(())
    })?;
    assert_eq!(ground.answers(HOST, 8)?, [0, 8]);
    Ok(())
}

fn in_place(ground: &Ground) -> Result<()> {
    let way = json!({ "type": "inPlace" });
    let pods = || -> Result<Vec<String>> {
        let path =
            "{range .items[*]}{.metadata.uid} {.status.podIP} {.status.startTime}{\"\\n\"}{end}";
        let said = ground.cluster.kubectl(&[
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/instance=svc",
            "-o",
            &format!("jsonpath={path}"),
        ])?;
        let mut lines: Vec<String> = said.out.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    let before = pods()?;
    ground.loses_nothing("in place", || {
        ground.apply(0, &way)?;
        ground.comes_to("Succeeded", 8)?;
        Ok(())
    })?;
    assert_eq!(ground.answers(HOST, 8)?, [8, 0]);
    assert_eq!(pods()?, before, "the same pods under the same addresses");
    ground.loses_nothing("in place, aborted", || {
        ground.apply(1, &way)?;
        until("one is new", PATIENCE, || {
            ground.release().is_ok_and(|release| {
                release["status"]["at"].as_str().is_some_and(|at| at.contains("(1/4)"))
            })
        })?;
        ground.steer("abort")?;
        ground.comes_to("Aborted", 9)?;
        Ok(())
    })?;
    assert_eq!(ground.answers(HOST, 8)?, [8, 0]);
    assert_eq!(pods()?, before, "the same pods still");
    ground.apply(0, &way)
}

fn an_address_that_stays(ground: &Ground) -> Result<()> {
    let addresses = |app: &str| -> Result<Vec<String>> {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
        let named = format!("app.kubernetes.io/instance={app}");
        let said = ground.cluster.kubectl(&["get", "pods", "-l", &named, "-o", path])?;
        Ok(said.out.lines().map(str::to_owned).collect())
    };
    let sorted = || -> Result<Vec<String>> {
        let all = addresses("svc")?;
        let mut all: Vec<String> =
            all.iter().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect();
        all.sort();
        Ok(all)
    };
    let way = json!({ "type": "keepAddress" });
    let before = sorted()?;
    assert_eq!(before.len(), 4);
    for image in [1, 0] {
        let revision = ground.release()?["spec"]["revision"].as_i64().context("a revision")?;
        ground.loses_nothing("keep the address", || {
            ground.apply(image, &way)?;
            ground.comes_to("Succeeded", revision + 1)?;
            Ok(())
        })?;
        assert_eq!(sorted()?, before, "other pods under the same addresses");
    }
    assert_eq!(ground.answers(HOST, 8)?, [8, 0]);
    ground.loses_nothing("keep the address, aborted", || ground.abort_half_way(1, &way, 12))?;
    // Those that had come when it was aborted may go back to other addresses.
    assert_eq!(sorted()?.len(), before.len());
    assert_eq!(ground.answers(HOST, 8)?, [8, 0]);
    ground.apply(0, &way)?;

    // Where instances have names, each name keeps its own.
    let named = |image: usize| {
        let image = &ground.images[image];
        ground.cluster.apply(&format!(
            "apiVersion: berth.dev/v1\nkind: App\nmetadata: {{name: named}}\nspec: {{image: \
             \"{image}\", replicas: 3, port: 8080, stateful: true, strategy: {{type: \
             keepAddress}}, resources: {{limits: {{cpu: 200m, memory: 64Mi}}}}}}\n"
        ))
    };
    let comes = |image: usize| -> Result<()> {
        let wanted = &ground.images[image];
        until("the named are there", PATIENCE, || {
            let path = "{.status.updatedReplicas} {.status.readyReplicas} {.spec.image}";
            let is = ground.cluster.field("app/named", path).unwrap_or_default();
            let images = "jsonpath={.items[*].spec.containers[0].image}";
            let select = "app.kubernetes.io/instance=named";
            let running = ground.cluster.kubectl(&["get", "pods", "-l", select, "-o", images]);
            is.starts_with("3 3 ")
                && running
                    .is_ok_and(|ran| ran.out.split(' ').filter(|one| one == wanted).count() == 3)
        })?;
        Ok(())
    };
    named(0)?;
    comes(0)?;
    let before = addresses("named")?;
    named(1)?;
    comes(1)?;
    assert_eq!(addresses("named")?, before, "the same names under the same addresses");
    ground.cluster.berth(&["app", "delete", "named"])?;
    Ok(())
}

fn a_canary_that_fails_comes_back_by_itself(ground: &Ground) -> Result<()> {
    let weights = || -> Result<String> {
        ground.cluster.field("ingress/svc", "{.metadata.annotations.berth\\.dev/weights}")
    };
    let before = ground.answers(HOST, 8)?;
    let way = json!({
        "type": "canary", "steps": [{ "weight": 30 }],
        "checks": [{ "name": "answers", "balancer": "success", "min": 99,
                     "everySeconds": 2, "failures": 2 }],
    });
    let revision = ground.release()?["spec"]["revision"].as_i64().context("a revision")? + 1;
    let load = Load::start(ground.cluster.http(), HOST, RATE);
    ground.apply_image(&ground.failing, &way)?;
    let weighed = until("the new version has its share", PATIENCE, || {
        weights().is_ok_and(|weights| !weights.is_empty())
    });
    // Nobody says anything: what the balancer counts takes it back.
    let came = weighed.and_then(|_| ground.comes_to("Aborted", revision));
    let report = load.stop();
    came?;
    let failed = report.failures.len();
    eprintln!("a failing canary: {failed} of {} requests failed before it was back", report.sent);
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
    assert_eq!(ground.answers(HOST, 8)?, before);
    ground.apply(0, &json!({ "type": "keepAddress" }))
}

fn a_freeze_holds_and_a_rollback_passes(ground: &Ground) -> Result<()> {
    let annotate = |value: &str| {
        let note = format!("berth.dev/freeze={value}");
        ground.cluster.kubectl(&["annotate", "app", "svc", "--overwrite", &note])
    };
    annotate("always promotion day")?;
    ground.apply(1, &json!({ "type": "rolling" }))?;
    let revision = ground.comes_to("Waiting", 10)?;
    until("it says why", PATIENCE, || {
        ground
            .release()
            .is_ok_and(|release| release["status"]["message"] == "frozen: the App: promotion day")
    })?;
    annotate("2020-01-01T00:00:00Z/2020-01-02T00:00:00Z")?;
    ground.comes_to("Succeeded", revision)?;
    annotate("always promotion day")?;
    ground.cluster.berth(&["release", "rollback", "svc"])?;
    ground.comes_to("Succeeded", revision + 1)?;
    assert_eq!(ground.answers(HOST, 8)?, [8, 0], "a freeze does not hold up the way back");
    Ok(())
}
