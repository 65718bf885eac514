//! `berth exec --debug`: a container made beside those of the pod, to look into it.
//!
//! With a terminal it is attached to. Without one its output is read as its log, so that a command
//! that is over at once loses nothing; what comes in by standard input goes nowhere then.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_console::debug::{Debug, Profile, Stage, stage};
use futures::{AsyncReadExt as _, SinkExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, LogParams, Patch, PatchParams, TerminalSize};
use kube::runtime::wait::await_condition;

use super::{CHUNK, RawTerminal, Recorder, converse, hand_on, size};
use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::images;
use crate::instance::Instance;

/// An image has to be fetched.
const STARTS: Duration = Duration::from_secs(180);
/// The node tells how it ended a little after its streams end.
const TOLD: Duration = Duration::from_secs(20);

/// What container it is to be.
#[derive(clap::Args, Debug)]
pub struct Asked {
    /// Its image [default: this machine's strace, lsof, ss, tcpdump and more, as `berth images
    /// tools` packs them]
    #[arg(long, value_name = "IMAGE", requires = "debug")]
    image: Option<String>,
    /// What it may: trace processes; besides, capture packets and change the network; neither
    #[arg(long, value_enum, requires = "debug", default_value_t)]
    profile: Word,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
enum Word {
    #[default]
    General,
    Network,
    Plain,
}

/// A container that is about to be made.
pub struct Beside {
    /// How it will be called.
    pub name: String,
    /// What it is.
    pub debug: Debug,
    /// Whose processes it sees.
    target: String,
}

impl Asked {
    /// As the options say; the image of tools is made where this machine's own cluster has none.
    ///
    /// # Errors
    /// When no image is named and none can be made.
    pub async fn container(&self, global: &Global, target: String) -> Result<Beside> {
        let image = match (&self.image, &global.kubeconfig) {
            (Some(image), _) => image.clone(),
            (None, None) => images::tools(&Instance::of(global)?).await?,
            (None, Some(_)) => {
                let message = "no image is named for a container on this cluster";
                let hint = "--image NAME; `berth images tools --save FILE` makes one to be brought \
                            there";
                return Err(Failure::new(Exit::Failed, message, hint).into());
            }
        };
        let profile = match self.profile {
            Word::General => Profile::General,
            Word::Network => Profile::Network,
            Word::Plain => Profile::Plain,
        };
        Ok(Beside { name: Debug::name(), debug: Debug { image, profile }, target })
    }
}

impl Beside {
    /// Makes it in `pod`, and goes along until its command has ended; the command's exit code.
    ///
    /// # Errors
    /// When the cluster does not let us, or the container does not start, and why.
    pub async fn run(
        &self,
        api: &Api<Pod>,
        pod: &str,
        command: &[String],
        terminal: bool,
        transcript: &Recorder,
    ) -> Result<i32> {
        let patch = Patch::Strategic(self.debug.patch(&self.name, &self.target, command, terminal));
        let made = api.patch_ephemeral_containers(pod, &PatchParams::default(), &patch).await;
        made.with_context(|| format!("making a container in {pod}"))?;
        eprintln!("container {} of {} stays until {pod} goes", self.name, self.debug.image);
        match self.reaches(api, pod, STARTS, |at| at != Stage::Coming).await? {
            Stage::Running if terminal => self.attach(api, pod, transcript).await?,
            _ => self.read(api, pod, transcript).await?,
        }
        match self.reaches(api, pod, TOLD, |at| matches!(at, Stage::Over(_))).await? {
            Stage::Over(code) => Ok(code),
            _ => bail!("container {} still runs", self.name),
        }
    }

    /// Waits until the container is as `wanted`; how it is then.
    async fn reaches(
        &self,
        api: &Api<Pod>,
        pod: &str,
        patience: Duration,
        wanted: impl Fn(Stage) -> bool + Send,
    ) -> Result<Stage> {
        // A pod that is gone and a container that never starts are as far as they get.
        let there =
            |pod: Option<&Pod>| pod.is_none_or(|pod| stage(pod, &self.name).map_or(true, &wanted));
        let waited = tokio::time::timeout(patience, await_condition(api.clone(), pod, there)).await;
        let waited = waited
            .with_context(|| format!("container {} is not so far after {patience:?}", self.name))?;
        let found = waited?.with_context(|| format!("{pod} is gone"))?;
        stage(&found, &self.name).map_err(|why| {
            let hint = "see `berth exec --help` on --image";
            Failure::new(Exit::Failed, why, hint).into()
        })
    }

    async fn attach(&self, api: &Api<Pod>, pod: &str, transcript: &Recorder) -> Result<()> {
        let params = AttachParams::interactive_tty().container(&self.name);
        let mut process = api
            .attach(pod, &params)
            .await
            .with_context(|| format!("attaching to {} of {pod}", self.name))?;
        // What was printed before is gone: a program that learns of another size prints it again.
        if let Some(mut sizes) = process.terminal_size() {
            let TerminalSize { width, height } = size();
            for width in [width.saturating_add(1), width] {
                sizes.send(TerminalSize { width, height }).await?;
            }
        }
        let _raw = RawTerminal::enter()?;
        converse(process, true, transcript).await.map(|_| ())
    }

    async fn read(&self, api: &Api<Pod>, pod: &str, transcript: &Recorder) -> Result<()> {
        let container = Some(self.name.clone());
        let params = LogParams { container, follow: true, ..LogParams::default() };
        let mut lines = api.log_stream(pod, &params).await?;
        let mut out = tokio::io::stdout();
        let mut printed = vec![0; CHUNK];
        loop {
            let length = lines.read(&mut printed).await?;
            if length == 0 {
                return Ok(());
            }
            hand_on(&printed[..length], &mut out, transcript).await?;
        }
    }
}
