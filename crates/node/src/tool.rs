//! Runs the machine's own tools (`ip`, `nft`, …), each under a deadline.
//!
//! Refuses a shell: arguments are passed as they are. What a tool says on failure becomes part of
//! the error, because it is usually the only explanation there is.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

/// Longer than the slowest tool took on a loaded machine by an order of magnitude.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where Debian keeps the tools of root, which a plain user's PATH lacks.
const ALSO: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// A tool that could not be run or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started.
    #[error("cannot run {tool}")]
    Start {
        /// The program's name.
        tool: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with a failure.
    #[error("{tool} {arguments} failed: {said}")]
    Failed {
        /// The program's name.
        tool: String,
        /// What it was asked.
        arguments: String,
        /// The first line of its standard error.
        said: String,
    },
    /// It did not end in time.
    #[error("{tool} {arguments} did not end within {} s", DEADLINE.as_secs())]
    Late {
        /// The program's name.
        tool: String,
        /// What it was asked.
        arguments: String,
    },
}

/// Runs `tool` and gives its standard output.
///
/// # Errors
/// When it cannot start, fails, or is late.
pub async fn run(tool: &str, arguments: &[&str]) -> Result<String, ToolError> {
    run_with_input(tool, arguments, "").await
}

/// Runs `tool` with `input` as its standard input and gives its standard output.
///
/// # Errors
/// When it cannot start, fails, or is late.
pub async fn run_with_input(
    tool: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String, ToolError> {
    let start_error = |source| ToolError::Start { tool: tool.to_owned(), source };
    let program = find(tool).unwrap_or_else(|| PathBuf::from(tool));
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start_error)?;
    let stdin = child.stdin.take();
    let work = async move {
        if let Some(mut stdin) = stdin {
            // A tool that ends without reading closes the pipe; its exit status tells the story.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let late = || ToolError::Late { tool: tool.to_owned(), arguments: arguments.join(" ") };
    let output =
        tokio::time::timeout(DEADLINE, work).await.map_err(|_| late())?.map_err(start_error)?;
    judge(tool, arguments, &output)
}

/// Runs `tool` and waits for it on this thread: for checks before there is a runtime.
///
/// # Errors
/// When it cannot start or fails.
pub fn run_here(tool: &str, arguments: &[&str]) -> Result<String, ToolError> {
    let program = find(tool).unwrap_or_else(|| PathBuf::from(tool));
    let output = std::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ToolError::Start { tool: tool.to_owned(), source })?;
    judge(tool, arguments, &output)
}

fn judge(
    tool: &str,
    arguments: &[&str],
    output: &std::process::Output,
) -> Result<String, ToolError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(ToolError::Failed {
        tool: tool.to_owned(),
        arguments: arguments.join(" "),
        said: said.trim().to_owned(),
    })
}

/// The path of `tool`, looked for in PATH and where root's tools are.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ALSO.iter().map(PathBuf::from))
        .map(|dir| dir.join(tool))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_that_fails_says_why() {
        let error = run("ls", &["/does-not-exist"]).await.expect_err("no such file");
        assert!(error.to_string().contains("/does-not-exist"), "{error}");
        let error = run("no-such-tool-here", &[]).await.expect_err("no such tool");
        assert_eq!(error.to_string(), "cannot run no-such-tool-here");
    }

    #[tokio::test]
    async fn input_comes_out_of_cat() {
        assert_eq!(run_with_input("cat", &[], "hello").await.expect("cat"), "hello");
    }
}
