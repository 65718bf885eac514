//! `berth exec`: a command in one of an app's containers, with a terminal where there is one.
//!
//! Where the cluster has a console, the session is in its list: recorded as those of the web shell
//! are, and cut off by the same people.

mod beside;
mod recorded;

use std::io::IsTerminal;

use anyhow::{Context, Result, anyhow};
use berth_console::SessionAbout;
use futures::SinkExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use kube::{Api, ResourceExt};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Global, on_one_thread};
use crate::failure::{Exit, Failure};
use crate::{connect, pods};
use recorded::Recorder;

const CHUNK: usize = 16 << 10;

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
    /// Record the session in this database of a console. Absent: that of the data directory, if it
    /// has a console
    #[arg(long, value_name = "ADDRESS", env = "BERTH_CONSOLE_DATABASE", hide_env_values = true)]
    console_database: Option<String>,
    /// In a container made beside it, which sees its processes and has its own tools
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    beside: beside::Asked,
    /// The command and its arguments; with --debug, what the image says when there is none
    #[arg(last = true, required_unless_present = "debug")]
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
    let terminal = has_terminal();
    let api: Api<Pod> = Api::namespaced(client.clone(), &options.namespace);
    let name = pod.name_any();
    let target = container(pod, options.container.as_deref());
    let beside = match options.debug {
        true => Some(options.beside.container(global, target.clone()).await?),
        false => None,
    };
    let about = SessionAbout {
        account: recorded::who(&client).await,
        address: recorded::from_where(),
        namespace: options.namespace.clone(),
        pod: name.clone(),
        container: beside.as_ref().map_or(&target, |made| &made.name).clone(),
        image: beside.as_ref().map(|made| made.debug.image.clone()),
        command: options.command.clone(),
        terminal: terminal.then(|| (size().width, size().height)),
    };
    // Before the command runs: what cannot be recorded does not happen.
    let transcript = Recorder::begin(global, options.console_database.as_deref(), &about).await?;
    let ended = match &beside {
        Some(made) => made.run(&api, &name, &options.command, terminal, &transcript).await,
        None => run_in(&api, &name, options.container, &options.command, &transcript).await,
    };
    transcript.end(&ended).await?;
    ended
}

/// The command, in a container that is there.
async fn run_in(
    api: &Api<Pod>,
    name: &str,
    container: Option<String>,
    command: &[String],
    transcript: &Recorder,
) -> Result<i32> {
    let terminal = has_terminal();
    let mut params =
        AttachParams::default().stdin(true).stdout(true).stderr(!terminal).tty(terminal);
    params.container = container;
    match api.exec(name, command.to_vec(), &params).await {
        Ok(process) => {
            let _raw = if terminal { Some(RawTerminal::enter()?) } else { None };
            converse(process, terminal, transcript).await
        }
        Err(error) => Err(error).with_context(|| format!("running {command:?} in {name}")),
    }
}

fn has_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The container that is meant: the one that is named, else the pod's default, else its first.
fn container(pod: &Pod, named: Option<&str>) -> String {
    let default = pod.annotations().get("kubectl.kubernetes.io/default-container");
    let first = pod.spec.iter().flat_map(|spec| &spec.containers).next();
    let named = named.map(str::to_owned).or_else(|| default.cloned());
    named.or_else(|| first.map(|one| one.name.clone())).unwrap_or_default()
}

/// Carries bytes both ways until the command has ended; its exit code.
async fn converse(
    mut process: AttachedProcess,
    terminal: bool,
    transcript: &Recorder,
) -> Result<i32> {
    let status = process.take_status().context("the stream of the command's status")?;
    let mut output = process.stdout().context("the command's output")?;
    let mut errors = process.stderr();
    let mut input = process.stdin().context("the command's input")?;
    let mut sizes = process.terminal_size();
    let mut resized = signal(SignalKind::window_change())?;
    let feed = async move {
        let mut stdin = tokio::io::stdin();
        let mut keys = vec![0; CHUNK];
        while let Ok(length @ 1..) = stdin.read(&mut keys).await {
            transcript.typed(&keys[..length]).await;
            // The command may end before it has read everything.
            if input.write_all(&keys[..length]).await.is_err() || input.flush().await.is_err() {
                break;
            }
        }
        drop(input.shutdown().await);
        std::future::pending::<()>().await;
    };
    let resize = async move {
        while let Some(sizes) = sizes.as_mut().filter(|_| terminal) {
            let size = size();
            transcript.resized(&size).await;
            if sizes.send(size).await.is_err() || resized.recv().await.is_none() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let show = async move {
        let out = show(&mut output, tokio::io::stdout(), transcript);
        let err = async {
            match &mut errors {
                Some(errors) => show(errors, tokio::io::stderr(), transcript).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(out, err).map(|_| ())
    };
    let status = tokio::select! {
        () = feed => None,
        () = resize => None,
        why = transcript.watch() => return Err(why?),
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

/// Passes on what the command prints.
async fn show(
    from: &mut (impl AsyncRead + Unpin),
    mut to: impl AsyncWrite + Unpin,
    transcript: &Recorder,
) -> Result<()> {
    let mut printed = vec![0; CHUNK];
    loop {
        let length = from.read(&mut printed).await?;
        if length == 0 {
            return Ok(());
        }
        hand_on(&printed[..length], &mut to, transcript).await?;
    }
}

/// What is recorded is so before it is shown.
async fn hand_on(
    printed: &[u8],
    to: &mut (impl AsyncWrite + Unpin),
    transcript: &Recorder,
) -> Result<()> {
    transcript.shown(printed).await?;
    to.write_all(printed).await?;
    Ok(to.flush().await?)
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
