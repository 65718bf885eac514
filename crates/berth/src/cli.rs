//! The command line: words and flags, and which module each leads to.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use berth_daemon::Tasks;
use clap::{Args, Parser, Subcommand};

use crate::output::Format;
use crate::{
    advise, app, backup, balancer, collector, completion, console, controllers, defrag, deploy,
    down, exec, images, install, instance, logs, release, report, restore, scheduler, sim, status,
    top, up, why,
};

/// A container cloud in one binary.
#[derive(Parser, Debug)]
#[command(name = "berth", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the machine lacks something, \
    4 a port or directory is in use, 5 berth is not running, 6 a deployment did not come up."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Where everything is kept
    #[arg(long, global = true, env = "BERTH_DATA_DIR", default_value = "/var/lib/berth")]
    pub data_dir: PathBuf,
    /// Talk to this cluster instead of the data directory's own
    #[arg(long, global = true, env = "BERTH_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a cluster on this machine
    Up(Box<instance::Options>),
    /// Stop everything and remove what it programmed into the kernel
    Down(down::Options),
    /// Build an image from a directory, release it and wait until it answers
    Deploy(deploy::Options),
    /// Write, check, compare and apply apps
    App(app::Options),
    /// Watch and steer versions on their way out
    Release(release::Options),
    /// Show the cluster, or one app
    Status(status::Options),
    /// Print what an app's containers print
    Logs(logs::Options),
    /// Show what containers do: CPU, memory, load, I/O, each its own
    Top(top::Options),
    /// Run a command in one of an app's containers
    Exec(exec::Options),
    /// Print the path of the kubeconfig
    Kubeconfig,
    /// Write all objects and keys to one file, now or regularly
    Backup(backup::Options),
    /// Make an instance from a backup, beside the broken one or in its place
    Restore(restore::Options),
    /// List the registry's images
    Images(images::Options),
    /// Rehearse scheduling policies, or register hollow nodes
    Sim(sim::Options),
    /// Say why a pod is on its node, or on none
    Why(why::Options),
    /// Say what workloads should ask for, from what they were measured to use
    Advise(advise::Options),
    /// Plan, or make, the moves that empty nodes
    Defrag(defrag::Options),
    /// Schedule pods of any Kubernetes, beside its own scheduler
    Scheduler(scheduler::Options),
    /// Put Berth on a Kubernetes, or bring what is there up to date
    Install(Box<install::Options>),
    /// Take Berth off a Kubernetes
    Uninstall(install::uninstall::Options),
    /// Look after apps and releases, on any Kubernetes
    Controllers(Box<controllers::Options>),
    /// Keep the log directories of apps on a node of any Kubernetes
    Collector(collector::Options),
    /// What the console has measured, for people and for spreadsheets
    Report(report::Options),
    /// The web console, and who may log in there
    Console(console::Options),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion(completion::Options),
    /// Serve, ask and check DNS
    Dns(up::parts::DnsOptions),
    /// Carry HTTP, TCP and UDP to pods, or write what nginx and keepalived need for it
    Balancer(Box<balancer::Options>),
}

/// Goes on until the process is told to end or its tasks are, and gives them `drain` to finish.
///
/// # Errors
/// When one of them has panicked.
pub async fn until_the_end(tasks: &Tasks, drain: Duration) -> Result<()> {
    tokio::select! {
        ended = berth_daemon::wait_for_end() => ended?,
        () = tasks.stopping() => {}
    }
    tasks.stop(drain).await;
    ensure!(!tasks.has_panicked(), "a task failed, see above");
    Ok(())
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever the subcommand could not do.
    pub fn run(self) -> Result<()> {
        let Self { global, command } = self;
        match command {
            Command::Up(options) => up::run(&global, *options),
            Command::Down(options) => on_one_thread(down::run(&global, &options)),
            Command::Deploy(options) => on_one_thread(deploy::run(&global, options)),
            Command::App(options) => on_one_thread(app::run(&global, options)),
            Command::Release(options) => on_one_thread(release::run(&global, options)),
            Command::Status(options) => on_one_thread(status::run(&global, options)),
            Command::Logs(options) => on_one_thread(logs::run(&global, options)),
            Command::Top(options) => on_one_thread(top::run(&global, options)),
            Command::Exec(options) => exec::run(&global, options),
            Command::Kubeconfig => instance::print_kubeconfig(&global),
            Command::Images(options) => images::run(&global, &options),
            Command::Backup(options) => on_one_thread(backup::run(&global, options)),
            Command::Restore(options) => restore::run(&global, &options),
            Command::Sim(options) => sim::run(&global, options),
            Command::Why(options) => on_one_thread(why::run(&global, options)),
            Command::Advise(options) => on_one_thread(advise::run(&global, options)),
            Command::Defrag(options) => on_one_thread(defrag::run(&global, options)),
            Command::Scheduler(options) => scheduler::run(&global, options),
            Command::Install(options) => on_one_thread(install::run(&global, *options)),
            Command::Uninstall(options) => on_one_thread(install::uninstall::run(&global, options)),
            Command::Controllers(options) => controllers::run(&global, *options),
            Command::Collector(options) => collector::run(&global, options),
            Command::Report(options) => on_one_thread(report::run(&global, options)),
            Command::Console(options) => console::run(&global, options),
            Command::Version => version(&global),
            Command::Completion(options) => completion::run(&options),
            Command::Dns(options) => up::parts::dns(&global, options),
            Command::Balancer(options) => balancer::run(&global, *options),
        }
    }
}

/// A client has little to do at once.
pub fn on_one_thread<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(task);
    // A read of the terminal goes on until somebody types; nothing may wait for it.
    runtime.shutdown_background();
    result
}

fn version(global: &Global) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    global.output.print(&serde_json::json!({ "version": version }), || format!("berth {version}\n"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_command_can_be_parsed_and_completed() {
        Cli::command().debug_assert();
    }
}
