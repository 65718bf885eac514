//! Volumes on this machine: made, mounted, removed.

use super::*;

fn volume(value: serde_json::Value) -> Volume {
    serde_json::from_value(value).expect("a volume")
}

#[test]
fn kinds_that_are_not_supported_are_named() {
    let check = |value: serde_json::Value, expected: Result<&str, &str>| {
        let found = kind(&volume(value));
        match expected {
            Ok(expected) => assert_eq!(found.expect("supported"), expected),
            Err(named) => {
                let error = found.expect_err("not supported").to_string();
                assert!(error.contains(named), "{error}");
            }
        }
    };
    check(serde_json::json!({ "name": "a" }), Ok("emptyDir"));
    check(serde_json::json!({ "name": "a", "secret": { "secretName": "s" } }), Ok("secret"));
    check(
        serde_json::json!({ "name": "a", "nfs": { "server": "s", "path": "/" } }),
        Err("nfs is not supported"),
    );
    check(
        serde_json::json!({ "name": "a", "persistentVolumeClaim": { "claimName": "c" } }),
        Ok("persistentVolumeClaim"),
    );
}

#[test]
fn sub_paths_are_expanded_from_the_containers_variables() {
    let variables = [("POD".to_owned(), "web-1".to_owned())];
    let check = |mount: serde_json::Value, expected: Option<&str>| {
        let mount: VolumeMount = serde_json::from_value(mount).expect("a mount");
        assert_eq!(sub_path(&mount, &variables).expect("set").as_deref(), expected);
    };
    let base = |extra: (&str, &str)| serde_json::json!({ "name": "v", "mountPath": "/x", extra.0: extra.1 });
    check(serde_json::json!({ "name": "v", "mountPath": "/x" }), None);
    check(base(("subPath", "logs/$(POD)")), Some("logs/$(POD)"));
    check(base(("subPathExpr", "logs/$(POD)")), Some("logs/web-1"));
    let unset = serde_json::from_value(base(("subPathExpr", "$(NONE)"))).expect("a mount");
    assert!(sub_path(&unset, &variables).is_err());
}

#[test]
fn an_empty_dir_is_made_once_and_removed_with_the_pod() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = crate::sample::config(dir.path());
    let path = volume_dir(&config.pod_dir("u1"), "emptyDir", "scratch");
    let source = EmptyDirVolumeSource::default();
    empty_dir(&config, "scratch", &source, &path, None).expect("made");
    std::fs::write(path.join("kept"), "x").expect("written");
    empty_dir(&config, "scratch", &source, &path, None).expect("still there");
    assert!(path.join("kept").exists());
    remove(&config, "u1").expect("removed");
    assert!(!config.pod_dir("u1").exists());
    remove(&config, "u1").expect("removing again is fine");
}

#[test]
fn memory_volumes_and_sub_paths_are_unmounted_with_the_pod() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root");
        eprintln!("skipped: mounting needs root");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let config = crate::sample::config(dir.path());
    let path = volume_dir(&config.pod_dir("u2"), "emptyDir", "fast");
    let source: EmptyDirVolumeSource =
        serde_json::from_value(serde_json::json!({ "medium": "Memory", "sizeLimit": "1Mi" }))
            .expect("a source");
    empty_dir(&config, "fast", &source, &path, Some(4242)).expect("made");
    let stat = nix::sys::statvfs::statvfs(&path).expect("mounted");
    assert_eq!(stat.blocks() * stat.fragment_size(), 1 << 20);
    std::fs::write(path.join("file"), "x").expect("written");
    let mounts = Mounts {
        volumes: [("fast".to_owned(), Prepared { path: path.clone(), read_only: false })].into(),
        subpaths: config.pod_dir("u2").join("volume-subpaths"),
    };
    let container: Container = serde_json::from_value(serde_json::json!({
        "name": "a",
        "volumeMounts": [
            { "name": "fast", "mountPath": "/x", "subPath": "file", "readOnly": true },
            { "name": "fast", "mountPath": "/y", "subPath": "made/here" },
        ],
    }))
    .expect("a container");
    for _ in 0..2 {
        let made = mounts.for_container(&container, &[]).expect("bound");
        assert!(made[0].readonly);
        assert_eq!(std::fs::read_to_string(&made[0].host_path).expect("the file"), "x");
        assert!(Path::new(&made[1].host_path).is_dir());
    }
    remove(&config, "u2").expect("removed");
    assert!(mounts::below(dir.path()).is_empty());
    assert!(!config.pod_dir("u2").exists());
}
