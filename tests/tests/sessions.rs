//! exec, attach, cp and port-forward with a real kubectl, both ways it can speak: WebSocket, which
//! it takes first since 1.31, and SPDY/3.1, which is all that older ones know.
//!
//! `BERTH_OLD_KUBECTL` may name a kubectl from before WebSockets, which then is tried too.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_tests::{Cluster, can_run_clusters, get, until};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: talks}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    stdin: true
    command:
    - /bin/sh
    - -c
    - |
      busybox mkdir -p /tools /www; busybox ln -s \"$(busybox which busybox)\" /tools/tar
      echo page > /www/index.html; busybox httpd -p 8080 -h /www
      while read line; do echo \"heard $line\"; done
    env: [{name: PATH, value: '/tools:/bin:/usr/bin:/sbin:/usr/sbin'}]
";

/// How kubectl is told to speak.
struct Way {
    name: &'static str,
    program: String,
    websockets: &'static str,
}

impl Way {
    fn command(&self, cluster: &Cluster, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(cluster.dir().join("kubeconfig"))
            .args(words)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", self.websockets)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", self.websockets);
        command
    }

    /// What it ends with and prints when it reads `input`.
    fn run(&self, cluster: &Cluster, words: &[&str], input: &str) -> Result<(i32, String)> {
        let mut child = self
            .command(cluster, words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
        let ran = child.wait_with_output()?;
        let text = [ran.stdout, ran.stderr].concat();
        Ok((ran.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn sessions_work_by_websocket_and_by_spdy() -> Result<()> {
    if !can_run_clusters("sessions by WebSocket and SPDY") {
        return Ok(());
    }
    let cluster = Cluster::up()?;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello"])?;
    let image = cluster.field("deployment/hello", "{.spec.template.spec.containers[0].image}")?;
    cluster.apply(&POD.replace("IMAGE", &image))?;
    cluster.kubectl(&["wait", "pod/talks", "--for=condition=Ready", "--timeout=60s"])?;

    let way = |name, program: &str, websockets| Way { name, program: program.into(), websockets };
    let mut ways = vec![way("websocket", "kubectl", "true"), way("spdy", "kubectl", "false")];
    match std::env::var("BERTH_OLD_KUBECTL") {
        Ok(old) => ways.push(way("old", &old, "false")),
        Err(_) => eprintln!("skipped: an old kubectl, BERTH_OLD_KUBECTL names none"),
    }
    for way in &ways {
        exec_carries_streams_and_code(&cluster, way).context(way.name)?;
        cp_goes_there_and_back(&cluster, way).context(way.name)?;
        attach_reaches_the_first_process(&cluster, way).context(way.name)?;
        forwarded_ports_answer(&cluster, way).context(way.name)?;
    }
    tools_look_into_a_container_that_has_none(&cluster)
}

/// By containers made beside it, of an image of this machine's own tools.
fn tools_look_into_a_container_that_has_none(cluster: &Cluster) -> Result<()> {
    let look = |more: &[&str]| cluster.berth(&[&["exec", "hello", "--debug"], more].concat());
    let listening = look(&["--", "ss", "-ltnp"])?.out;
    assert!(listening.contains(":8080") && listening.contains("\"hello\""), "{listening}");
    let packed = cluster.berth(&["images", "tools"])?.out;
    for tool in ["strace", "lsof", "ss", "tcpdump", "sh"] {
        assert!(packed.split_whitespace().any(|word| word == tool), "{tool}: {packed}");
    }
    let open = look(&["--", "lsof", "-p", "1"])?.out;
    assert!(
        open.lines().any(|line| line.starts_with("hello") && line.contains("LISTEN")),
        "{open}"
    );
    let script = "timeout 20 strace -f -p 1 -o /tmp/calls & \
                  until grep -q 'accept\\|recvfrom\\|poll' /tmp/calls; do sleep 0.1; done; \
                  kill %1; echo traced";
    assert!(look(&["--", "bash", "-c", script])?.out.contains("traced"));
    let script = "timeout 20 tcpdump -n -i lo -c 1 udp 2>/tmp/said & \
                  until grep -q listening /tmp/said; do sleep 0.1; done; \
                  bash -c 'echo x > /dev/udp/127.0.0.1/9999'; wait %1";
    let captured = look(&["--profile", "network", "--", "bash", "-c", script])?.out;
    assert!(captured.contains("127.0.0.1.9999"), "{captured}");
    // It ends as its command does, and what cannot run says so.
    assert_eq!(
        cluster.try_berth(&["exec", "hello", "--debug", "--", "sh", "-c", "exit 7"])?.code,
        7
    );
    let none = cluster.try_berth(&["exec", "hello", "--debug", "--", "no-such-program"])?;
    assert!(none.code == 1 && none.err.contains("no-such-program"), "{none:?}");
    Ok(())
}

fn exec_carries_streams_and_code(cluster: &Cluster, way: &Way) -> Result<()> {
    let words = ["exec", "-i", "talks", "--", "/bin/sh", "-c", "read x; echo got $x >&2; exit 7"];
    let (code, text) = way.run(cluster, &words, "this\n")?;
    assert_eq!(code, 7, "{}: {text}", way.name);
    assert!(text.contains("got this"), "{}: {text}", way.name);
    Ok(())
}

fn cp_goes_there_and_back(cluster: &Cluster, way: &Way) -> Result<()> {
    let dir = tempfile::tempdir()?;
    // More than the windows and buffers between hold.
    let content: String = (0..200_000).map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.path().join("there"), &content)?;
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let inside = format!("talks:/tools/{}", way.name);
    for words in [
        ["cp", &there.display().to_string(), &inside],
        ["cp", &inside, &back.display().to_string()],
    ] {
        let (code, text) = way.run(cluster, &words, "")?;
        assert_eq!(code, 0, "{} {words:?}: {text}", way.name);
    }
    assert!(std::fs::read_to_string(back)? == content, "{}: cp changed the file", way.name);
    Ok(())
}

fn attach_reaches_the_first_process(cluster: &Cluster, way: &Way) -> Result<()> {
    let mut child = way
        .command(cluster, &["attach", "-i", "talks"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (mut to, from) = (child.stdin.take(), child.stdout.take());
    let _running = Running(child);
    writeln!(to.as_mut().context("its input")?, "{}", way.name)?;
    let mut said = String::new();
    BufReader::new(from.context("its output")?).read_line(&mut said)?;
    assert_eq!(said.trim(), format!("heard {}", way.name));
    Ok(())
}

fn forwarded_ports_answer(cluster: &Cluster, way: &Way) -> Result<()> {
    let mut child = way
        .command(cluster, &["port-forward", "--address=127.0.0.1", "talks", ":8080"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let from = child.stdout.take();
    let _running = Running(child);
    let mut lines = BufReader::new(from.context("its output")?);
    let mut said = String::new();
    lines.read_line(&mut said)?;
    let address = said.split_whitespace().find_map(|word| word.parse().ok());
    let address = address.with_context(|| format!("no address in {said:?}"))?;
    // One after the other, over one connection to the API server.
    for _ in 0..3 {
        until("the page comes through", Duration::from_secs(20), || {
            get(address, "any", "/").is_ok_and(|(status, body)| status == 200 && body == "page\n")
        })?;
    }
    Ok(())
}
