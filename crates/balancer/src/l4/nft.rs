//! Debian's `nft`: one call, one transaction.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Ten thousand Services of five endpoints load in two seconds; this is a kernel in trouble.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the kernel did not take rules.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// `nft` cannot be started.
    #[error("start {tool} (Debian package {package})")]
    Start {
        /// The program.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The pipe to or from the program broke.
    #[error("talk to {tool}")]
    Talk {
        /// The program.
        tool: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// It did not end in time.
    #[error("{tool} did not end within {} s", PATIENCE.as_secs())]
    Late {
        /// The program.
        tool: &'static str,
    },
    /// It refused; nothing was changed.
    #[error("{tool} refused: {said}")]
    Refused {
        /// The program.
        tool: &'static str,
        /// The first lines of its complaint.
        said: String,
    },
}

/// Runs `script` as one transaction: all of it or nothing.
pub(super) async fn load(script: &str) -> Result<(), NftError> {
    output("nft", "nftables", &["-f", "-"], script).await.map(drop)
}

/// Whether `chain` of `table` is in the kernel.
pub(super) async fn has_chain(table: &str, chain: &str) -> Result<bool, NftError> {
    match output("nft", "nftables", &["list", "chain", "ip", table, chain], "").await {
        Ok(_) => Ok(true),
        Err(NftError::Refused { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// What `tool` prints, given `arguments` and `input`.
pub(super) async fn output(
    tool: &'static str,
    package: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, NftError> {
    let mut child = Command::new(tool)
        .args(arguments)
        // A service's PATH may lack the administrator's directories, where Debian puts these.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| NftError::Start { tool, package, source })?;
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    let talk = async {
        // Written while the output is read: either pipe may fill first. A program that ends
        // without reading all of it says why in its exit code.
        let write = async {
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        tokio::join!(write, child.wait_with_output()).1
    };
    let done = tokio::time::timeout(PATIENCE, talk)
        .await
        .map_err(|_| NftError::Late { tool })?
        .map_err(|source| NftError::Talk { tool, source })?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said: Vec<_> = String::from_utf8_lossy(&done.stderr)
        .lines()
        .take(4)
        .map(|line| line.trim().to_owned())
        .collect();
    Err(NftError::Refused { tool, said: said.join(" / ") })
}
