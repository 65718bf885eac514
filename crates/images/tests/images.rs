//! Images made by Berth, looked at with other people's tools: skopeo, buildah, readelf.

#[path = "ground/registry.rs"]
mod ground;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use berth_images::build::{self, BuildError};
use berth_images::{registry, system};
use serde_json::{Value, json};

use ground::Ground;

/// Whether a tool is here. Without it a test is skipped on a laptop and fails in CI.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "{tool} is missing");
    if !found {
        eprintln!("skipped: {tool} is missing");
    }
    found
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    let root = id.stdout.trim_ascii() == b"0";
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root");
    if !root {
        eprintln!("skipped: this test needs root");
    }
    root
}

async fn run(program: &str, arguments: &[&str]) -> Output {
    let output = tokio::process::Command::new(program).args(arguments).output().await;
    let output = output.expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output
}

fn compile(dir: &Path, source: &str, arguments: &[&str]) {
    std::fs::write(dir.join("main.c"), source).expect("it is written");
    let status = Command::new("cc")
        .args(["-o", "program", "main.c"])
        .args(arguments)
        .current_dir(dir)
        .status()
        .expect("a C compiler is here: the workspace needs one to build");
    assert!(status.success());
}

const HELLO: &str = "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n";

fn write(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().expect("it has one")).expect("it is made");
    std::fs::write(path, content).expect("it is written");
}

/// Takes an image apart with skopeo; its configuration and its root file system.
async fn pull(reference: &str, to: &Path) -> Value {
    let (oci, rootfs) = (to.join("oci"), to.join("rootfs"));
    let from = format!("docker://{reference}");
    let into = format!("oci:{}:it", oci.display());
    run("skopeo", &["copy", "--src-tls-verify=false", &from, &into]).await;
    let blob = |digest: &Value| {
        let digest = digest.as_str().expect("it is text").trim_start_matches("sha256:").to_owned();
        oci.join("blobs/sha256").join(digest)
    };
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("it reads")).expect("it is JSON")
    };
    let index = read(&oci.join("index.json"));
    let manifest = read(&blob(&index["manifests"][0]["digest"]));
    std::fs::create_dir_all(&rootfs).expect("it is made");
    for layer in manifest["layers"].as_array().expect("there are layers") {
        let path = blob(&layer["digest"]);
        let (path, root) = (path.display().to_string(), rootfs.display().to_string());
        run("tar", &["-xf", &path, "-C", &root]).await;
    }
    read(&blob(&manifest["config"]["digest"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_becomes_an_image_that_skopeo_pulls() {
    if !has("skopeo") {
        return;
    }
    let ground = Ground::new().await;
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    compile(dir.path(), HELLO, &["-static"]);
    write(&dir.path().join("static/css/a.css"), "body {}");
    write(
        &dir.path().join("berth.toml"),
        r#"
            build = ["sh", "-c", "echo made > made.txt"]
            entrypoint = ["/bin/hello"]
            args = ["--loud"]
            port = 8080
            health = "/healthz"
            user = "1000"
            workdir = "/srv"
            logs = ["/var/log/hello"]
            [files]
            program = ["/bin/hello", "/bin/other"]
            static = "/srv"
            "made.txt" = { to = "/etc/made", mode = "0600" }
            [env]
            GREETING = "hello"
        "#,
    );
    let mut heard = Vec::new();
    let built = build::directory(dir.path(), "default/hello", ground.address, |done, total| {
        heard.push((done, total));
    });
    let built = built.await.expect("it is built");
    assert_eq!((built.port, built.health.as_deref()), (Some(8080), Some("/healthz")));
    assert_eq!(built.env.get("GREETING").map(String::as_str), Some("hello"));
    assert_eq!(built.logs, ["/var/log/hello"]);
    let last = heard.last().expect("progress was heard");
    assert!(last.0 == last.1 && last.1 > 100_000, "{last:?}");
    assert!(heard.is_sorted());

    let out = tempfile::tempdir().expect("a temporary directory can be made");
    let by_tag = format!("{}/default/hello:{}", ground.address, built.tag);
    let config = pull(&by_tag, out.path()).await;
    let run_as = &config["config"];
    assert_eq!(run_as["Entrypoint"], json!(["/bin/hello"]));
    assert_eq!(run_as["Cmd"], json!(["--loud"]));
    assert_eq!(run_as["ExposedPorts"], json!({ "8080/tcp": {} }));
    assert_eq!((&run_as["User"], &run_as["WorkingDir"]), (&json!("1000"), &json!("/srv")));
    let rootfs = out.path().join("rootfs");
    let read = |path: &str| std::fs::read_to_string(rootfs.join(path)).expect("it is there");
    assert_eq!(read("srv/css/a.css"), "body {}");
    assert_eq!(read("etc/made"), "made\n");
    for name in ["bin/hello", "bin/other"] {
        let said = Command::new(rootfs.join(name)).output().expect("it runs");
        assert_eq!(said.stdout, b"hello\n");
    }
    assert!(rootfs.join("var/log/hello").is_dir());

    let again = build::directory(dir.path(), "default/hello", ground.address, |_, _| ()).await;
    assert_eq!(again.expect("it is built"), built, "the same input gives the same image");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_stands_on_a_base_in_the_registry() {
    if !has("skopeo") {
        return;
    }
    let ground = Ground::new().await;
    let base = tempfile::tempdir().expect("a temporary directory can be made");
    write(&base.path().join("a"), "from the base");
    write(
        &base.path().join("berth.toml"),
        "entrypoint = [\"/a\"]\nargs = [\"x\"]\n[files]\na = \"/a\"\n[env]\nA = \"1\"\nB = \"1\"\n",
    );
    let built = build::directory(base.path(), "lib/base", ground.address, |_, _| ()).await;
    let tag = built.expect("it is built").tag;
    let top = tempfile::tempdir().expect("a temporary directory can be made");
    write(&top.path().join("b"), "from above");
    let definition =
        format!("base = \"lib/base:{tag}\"\n[files]\nb = \"/d/b\"\n[env]\nB = \"2\"\n");
    write(&top.path().join("berth.toml"), &definition);
    let built = build::directory(top.path(), "default/top", ground.address, |_, _| ()).await;
    let built = built.expect("it is built");
    let wanted = [("A", "1"), ("B", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let mut env = built.env.clone();
    env.remove("PATH").expect("there is a PATH");
    assert_eq!(env, BTreeMap::from(wanted));
    let out = tempfile::tempdir().expect("a temporary directory can be made");
    let config = pull(&built.reference, out.path()).await;
    assert_eq!(config["config"]["Entrypoint"], json!(["/a"]));
    assert_eq!(config["config"]["Cmd"], json!(["x"]));
    let read = |path: &str| std::fs::read_to_string(out.path().join("rootfs").join(path));
    assert_eq!(read("a").expect("it is there"), "from the base");
    assert_eq!(read("d/b").expect("it is there"), "from above");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_directory_is_said() {
    let ground = Ground::new().await;
    let fail = |definition: Option<&'static str>| {
        let address = ground.address;
        async move {
            let dir = tempfile::tempdir().expect("a temporary directory can be made");
            compile(dir.path(), HELLO, &[]);
            if let Some(definition) = definition {
                write(&dir.path().join("berth.toml"), definition);
            }
            let built = build::directory(dir.path(), "default/x", address, |_, _| ()).await;
            built.expect_err("it is wrong")
        }
    };
    assert!(matches!(fail(None).await, BuildError::NoDefinition { .. }));
    let base = fail(Some("base = \"docker.io/library/debian:12\"")).await;
    assert!(matches!(base, BuildError::NoBase { .. }), "{base}");
    assert!(base.to_string().contains("skopeo copy"), "{base}");
    let missing = fail(Some("entrypoint = [\"/a\"]\n[files]\nb = \"/a\"")).await;
    assert!(matches!(missing, BuildError::Layer(_)));
    let failed = fail(Some("entrypoint = [\"/a\"]\nbuild = [\"false\"]")).await;
    assert!(matches!(failed, BuildError::Failed { .. }));
    let absent = fail(Some("entrypoint = [\"/a\"]\nbuild = [\"no-such-program\"]")).await;
    assert!(matches!(absent, BuildError::Start { .. }));
    let dynamic = fail(Some("entrypoint = [\"/a\"]\n[files]\nprogram = \"/a\"")).await;
    assert!(matches!(dynamic, BuildError::NotStatic { .. }), "{dynamic}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerfile_is_built_by_buildah() {
    if !has("buildah") || !has("skopeo") || !is_root() {
        return;
    }
    let ground = Ground::new().await;
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    compile(dir.path(), HELLO, &["-static"]);
    write(
        &dir.path().join("Containerfile"),
        "FROM scratch\nCOPY program /hello\nRUN [\"/hello\"]\nENV GREETING=hi\nEXPOSE 8081\n\
         LABEL dev.berth.health=/ok\nENTRYPOINT [\"/hello\"]\n",
    );
    let work = tempfile::tempdir().expect("a temporary directory can be made");
    let built =
        build::directory_in(work.path(), dir.path(), "default/c", ground.address, |_, _| ()).await;
    let built = built.expect("it is built");
    assert_eq!((built.port, built.health.as_deref()), (Some(8081), Some("/ok")));
    assert_eq!(built.env.get("GREETING").map(String::as_str), Some("hi"));
    let out = tempfile::tempdir().expect("a temporary directory can be made");
    let tagged = format!("{}/default/c:{}", ground.address, built.tag);
    pull(&tagged, out.path()).await;
    let said = Command::new(out.path().join("rootfs/hello")).output().expect("it runs");
    assert_eq!(said.stdout, b"hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_and_buildah_push_and_pull() {
    if !has("skopeo") || !has("buildah") || !is_root() {
        return;
    }
    let ground = Ground::new().await;
    let pause = system::push_pause(ground.address).await.expect("it is pushed");
    let copy = format!("docker://{}/copied/pause:2", ground.address);
    let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    run("skopeo", &["copy", insecure[0], insecure[1], &format!("docker://{pause}"), &copy]).await;
    run("skopeo", &["inspect", "--tls-verify=false", &copy]).await;
    let tags = run("skopeo", &["list-tags", "--tls-verify=false", &copy.replace(":2", "")]).await;
    assert!(String::from_utf8_lossy(&tags.stdout).contains("\"2\""));

    let work = tempfile::tempdir().expect("a temporary directory can be made");
    let (root, runroot) = (work.path().join("root"), work.path().join("run"));
    let (root, runroot) = (root.display().to_string(), runroot.display().to_string());
    let storage =
        ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"].map(str::to_owned);
    let buildah = |arguments: Vec<String>| {
        let all: Vec<String> = storage.iter().cloned().chain(arguments).collect();
        async move {
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            run("buildah", &all).await
        }
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    buildah(words(&format!("pull --tls-verify=false {pause}"))).await;
    let again = format!("docker://{}/copied/again:1", ground.address);
    buildah(words(&format!("push --tls-verify=false {pause} {again}"))).await;
    run("skopeo", &["delete", "--tls-verify=false", &copy]).await;
    let left = registry::images(ground.dir.path()).expect("it lists");
    let left: Vec<_> = left.iter().map(|image| (image.name.as_str(), image.tag.as_str())).collect();
    assert_eq!(left, [("berth/pause", "1"), ("copied/again", "1")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_of_the_running_binary_starts_by_itself() {
    if !has("skopeo") || !is_root() {
        return;
    }
    let ground = Ground::new().await;
    let start = Instant::now();
    let reference = system::push_own(ground.address).await.expect("it is pushed");
    eprintln!("first push of the running binary: {:?}", start.elapsed());
    let start = Instant::now();
    let again = system::push_own(ground.address).await.expect("it is there");
    eprintln!("second push of the running binary: {:?}", start.elapsed());
    assert_eq!(again, reference);
    let out = tempfile::tempdir().expect("a temporary directory can be made");
    let config = pull(&reference, out.path()).await;
    assert_eq!(config["config"]["Entrypoint"], json!(["/berth"]));
    let library_path = config["config"]["Env"][0].as_str().unwrap_or("A=b").to_owned();
    // The kernel's own check: nothing but the image is there.
    let listed = Command::new("chroot")
        .arg(out.path().join("rootfs"))
        .args(["/berth", "--list"])
        .env_clear()
        .envs(library_path.split_once('='))
        .env("PATH", "/usr/sbin:/usr/bin")
        .output()
        .expect("chroot runs");
    let said = String::from_utf8_lossy(&listed.stdout);
    let errors = String::from_utf8_lossy(&listed.stderr);
    assert!(said.contains("image_of_the_running_binary_starts_by_itself"), "{said}{errors}");
}
