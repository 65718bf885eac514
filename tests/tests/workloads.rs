//! The kinds that people use daily, with real containers: what a pod sees, Jobs, DaemonSets,
//! service addresses, deletion of what belongs together.

use std::time::Duration;

use anyhow::Result;
use berth_tests::{Cluster, can_run_clusters, get, until};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn daily_kinds_do_what_they_say() -> Result<()> {
    if !can_run_clusters("the daily kinds") {
        return Ok(());
    }
    let cluster = Cluster::up()?;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello"])?;
    let image = cluster.field("deployment/hello", "{.spec.template.spec.containers[0].image}")?;
    cluster.apply(&include_str!("../fixtures/workloads.yaml").replace("IMAGE", &image))?;

    a_pod_sees_its_configuration(&cluster)?;
    a_changed_config_map_reaches_the_volume(&cluster)?;
    a_failing_liveness_probe_restarts_the_container(&cluster)?;
    a_job_completes_as_often_as_it_should(&cluster)?;
    service_addresses_answer_from_everywhere(&cluster)?;
    what_an_app_writes_into_its_log_directories_is_its_log(&cluster, &image)?;
    dependents_go_with_their_owner(&cluster)?;
    a_namespace_goes_with_all_that_is_in_it(&cluster)?;
    Ok(())
}

fn what_an_app_writes_into_its_log_directories_is_its_log(
    cluster: &Cluster,
    image: &str,
) -> Result<()> {
    let script = "echo printed; echo named >> /export/Logs/old.log; i=0; \
                  while :; do i=$((i+1)); echo line $i >> /var/log/writer/a.log; \
                  busybox sleep 0.2; done";
    let app = format!(
        "apiVersion: berth.dev/v1\nkind: App\nmetadata: {{name: writer}}\nspec:\n  \
         image: {image}\n  command: [/bin/sh, -c, {script:?}]\n  \
         env: {{KUBERNETES_FILELOGS: /export/Logs}}\n  \
         logs: {{directories: [/var/log/writer], quota: 64Mi}}\n  \
         terminationGracePeriodSeconds: 0\n"
    );
    cluster.apply(&app)?;
    let logs = |more: &[&str]| -> Result<String> {
        let words: Vec<&str> = ["logs", "writer"].iter().chain(more).copied().collect();
        Ok(cluster.berth(&words)?.out)
    };
    until("both directories are collected", PATIENCE, || {
        logs(&[]).is_ok_and(|text| {
            text.contains("printed")
                && text.contains(" /export/Logs/old.log named\n")
                && text.contains(" /var/log/writer/a.log line 3\n")
        })
    })?;
    assert!(!logs(&["--files"])?.contains("printed"), "only the files");
    assert_eq!(logs(&["--files", "--tail", "2"])?.lines().count(), 2);
    let path = "/apis/berth.dev/v1/namespaces/default/apps/writer/log?tailLines=1";
    // Files are looked at in turn: what was written last is last from the next look on.
    until("the last line is the writer's", PATIENCE, || {
        let raw = cluster.kubectl(&["get", "--raw", path]);
        raw.is_ok_and(|raw| {
            raw.out.contains(" /var/log/writer/a.log line ") && raw.out.lines().count() == 1
        })
    })?;
    for (user, expected) in [("system:masters", true), ("nobody", false)] {
        let words = ["get", "--raw", path, "--as=somebody", &format!("--as-group={user}")];
        assert_eq!(cluster.kubectl(&words).is_ok(), expected, "as a member of {user}");
    }
    let named = ["get", "pods", "-l", "app.kubernetes.io/instance=writer"];
    let first =
        cluster.kubectl(&[&named[..], &["-o", "jsonpath={.items[0].metadata.name}"]].concat())?;
    let first = first.out;
    cluster.kubectl(&["delete", "pod", &first, "--timeout=30s"])?;
    until("the next instance writes", PATIENCE, || {
        logs(&["--files"])
            .is_ok_and(|text| text.lines().last().is_some_and(|line| !line.starts_with(&first)))
    })?;
    assert!(logs(&["--files"])?.contains(&format!("{first} /var/log/writer/a.log line 1\n")));
    cluster.berth(&["app", "delete", "writer"])?;
    until("the App has gone", PATIENCE, || cluster.field("app/writer", "{.kind}").is_err())?;
    assert!(logs(&["--files"])?.contains(" line 3\n"), "its log stays");
    Ok(())
}

fn in_pod(cluster: &Cluster, pod: &str, script: &str) -> Result<String> {
    let ran = cluster.kubectl(&["exec", pod, "-c", "main", "--", "/bin/sh", "-c", script])?;
    Ok(ran.out.trim().to_owned())
}

fn a_pod_sees_its_configuration(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["wait", "pod/volumes", "--for=condition=Ready", "--timeout=60s"])?;
    let address = cluster.field("pod/volumes", "{.status.podIP}")?;
    for (script, expected) in [
        ("echo $COLOUR $PASSWORD $POD", "green hunter2 volumes"),
        ("echo $ADDRESS", address.as_str()),
        ("echo $LIMIT", "67108864"),
        ("echo $MESSAGE", "volumes is green"),
        ("read x < /scratch/prepared; echo $x", "prepared"),
        ("read x < /settings/colour; echo $x", "green"),
        ("read x < /secret/password; echo $x", "hunter2"),
        ("read x < /about/labels; echo $x", "app=\"volumes\""),
        ("busybox id -u", "1000"),
        ("busybox touch /file 2>/dev/null || echo refused", "refused"),
        ("busybox stat -c %g /scratch", "2000"),
        ("busybox hostname", "volumes"),
        ("busybox test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo yes", "yes"),
    ] {
        assert_eq!(in_pod(cluster, "volumes", script)?, expected, "{script}");
    }
    Ok(())
}

fn a_changed_config_map_reaches_the_volume(cluster: &Cluster) -> Result<()> {
    let patch = r#"{"data":{"colour":"blue"}}"#;
    cluster.kubectl(&["patch", "configmap", "settings", "--type=merge", "-p", patch])?;
    until("the volume has the new value", Duration::from_secs(90), || {
        in_pod(cluster, "volumes", "read x < /settings/colour; echo $x").is_ok_and(|x| x == "blue")
    })?;
    Ok(())
}

fn a_failing_liveness_probe_restarts_the_container(cluster: &Cluster) -> Result<()> {
    let count = "{.status.containerStatuses[0].restartCount}";
    until("the container was restarted", PATIENCE, || {
        cluster.field("pod/unwell", count).is_ok_and(|count| count != "0" && !count.is_empty())
    })?;
    cluster.kubectl(&["delete", "pod", "unwell", "--timeout=30s"])?;
    Ok(())
}

fn a_job_completes_as_often_as_it_should(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["wait", "job/sums", "--for=condition=Complete", "--timeout=60s"])?;
    assert_eq!(cluster.field("job/sums", "{.status.succeeded}")?, "3");
    assert_eq!(cluster.kubectl(&["logs", "job/sums"])?.out.trim(), "done");
    Ok(())
}

fn service_addresses_answer_from_everywhere(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["rollout", "status", "ds/everywhere", "--timeout=60s"])?;
    let address = cluster.field("service/everywhere", "{.spec.clusterIP}")?;
    let from_machine = format!("{address}:80").parse()?;
    until("the cluster IP answers on the machine", PATIENCE, || {
        get(from_machine, "any", "/").is_ok_and(|(status, _)| status == 200)
    })?;
    let node_port = cluster.field("service/everywhere", "{.spec.ports[0].nodePort}")?;
    let local = format!("127.0.0.1:{node_port}").parse()?;
    assert_eq!(get(local, "any", "/")?.0, 200, "the node port on 127.0.0.1");
    // From a pod to its own service: the hairpin.
    let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 everywhere 80";
    let ds = cluster.kubectl(&["exec", "ds/everywhere", "--", "/bin/sh", "-c", ask])?.out;
    assert!(ds.contains("200 OK"), "through its own service: {ds}");
    Ok(())
}

fn dependents_go_with_their_owner(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "app", "hello"])?;
    until("what the app made is gone", PATIENCE, || {
        let words = [
            "get",
            "deploy,rs,pods,svc,ing",
            "-l",
            "app.kubernetes.io/instance=hello",
            "-o",
            "name",
        ];
        cluster.kubectl(&words).is_ok_and(|ran| ran.out.trim().is_empty())
    })?;
    Ok(())
}

fn a_namespace_goes_with_all_that_is_in_it(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "namespace", "brief"])?;
    cluster.kubectl(&["-n", "brief", "create", "configmap", "some", "--from-literal=a=b"])?;
    cluster.kubectl(&["delete", "namespace", "brief", "--timeout=30s"])?;
    let gone = cluster.try_kubectl(&["get", "namespace", "brief"])?;
    assert!(gone.err.contains("NotFound"), "{}", gone.err);
    Ok(())
}
