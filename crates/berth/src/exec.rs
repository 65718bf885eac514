//! `berth exec`: a command in one of an app's containers, with a terminal where there is one.

use std::io::IsTerminal;

use anyhow::{Context, Result, anyhow};
use futures::SinkExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use kube::{Api, ResourceExt};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Global, on_one_thread};
use crate::failure::{Exit, Failure};
use crate::{connect, pods};

/// `berth exec`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The app, or a pod
    name: String,
    /// In this container
    #[arg(short, long)]
    container: Option<String>,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command and ends with its exit code.
pub fn run(global: &Global, options: Options) -> Result<()> {
    let code = on_one_thread(attach(global, options))?;
    std::process::exit(code) // skips waiting for a read of the terminal that never returns
}

async fn attach(global: &Global, options: Options) -> Result<i32> {
    let client = connect::client(global).await?;
    let pods = pods::of(&client, &options.namespace, &options.name).await?;
    let stays = |pod: &&Pod| pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    let Some(pod) = pods.iter().find(stays).or(pods.first()) else {
        return Err(anyhow!("no pod of `{}` runs", options.name));
    };
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut params =
        AttachParams::default().stdin(true).stdout(true).stderr(!terminal).tty(terminal);
    params.container = options.container;
    let api: Api<Pod> = Api::namespaced(client, &options.namespace);
    let name = pod.name_any();
    let process = api.exec(&name, options.command.clone(), &params).await;
    let process = process.with_context(|| format!("running {:?} in {name}", options.command))?;
    let _raw = if terminal { Some(RawTerminal::enter()?) } else { None };
    converse(process, terminal).await
}

/// Carries bytes both ways until the command has ended; its exit code.
async fn converse(mut process: AttachedProcess, terminal: bool) -> Result<i32> {
    let status = process.take_status().context("the stream of the command's status")?;
    let mut output = process.stdout().context("the command's output")?;
    let mut errors = process.stderr();
    let mut input = process.stdin().context("the command's input")?;
    let mut sizes = process.terminal_size();
    let mut resized = signal(SignalKind::window_change())?;
    let feed = async move {
        let copied = tokio::io::copy(&mut tokio::io::stdin(), &mut input).await;
        drop(copied); // the command may end before it has read everything
        drop(input.shutdown().await);
        std::future::pending::<()>().await;
    };
    let resize = async move {
        while let Some(sizes) = sizes.as_mut().filter(|_| terminal) {
            if sizes.send(size()).await.is_err() || resized.recv().await.is_none() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let show = async move {
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        let out = tokio::io::copy(&mut output, &mut stdout);
        let err = async {
            match &mut errors {
                Some(errors) => tokio::io::copy(errors, &mut stderr).await,
                None => Ok(0),
            }
        };
        tokio::try_join!(out, err)?;
        stdout.flush().await
    };
    let status = tokio::select! {
        () = feed => None,
        () = resize => None,
        (shown, status) = async { tokio::join!(show, status) } => { shown?; status }
    };
    let Some(status) = status else {
        let message = "the connection ended before the command";
        let hint = "whether it still runs is not known; see `berth status`";
        return Err(Failure::new(Exit::Failed, message, hint).into());
    };
    match status.status.as_deref() {
        Some("Success") => Ok(0),
        _ => exit_code(&status).ok_or_else(|| {
            let message = status.message.unwrap_or_else(|| "the command did not run".into());
            Failure::new(Exit::Failed, message, "").into()
        }),
    }
}

/// The `ExitCode` cause of a `NonZeroExitCode` status.
fn exit_code(status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Option<i32> {
    let causes = status.details.as_ref()?.causes.as_ref()?;
    let cause = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    cause.message.as_deref()?.parse().ok()
}

fn size() -> TerminalSize {
    let (height, width) = console::Term::stdout().size();
    TerminalSize { height, width }
}

/// The terminal without line editing and echo, put back on drop.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let before = termios::tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _gone = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
