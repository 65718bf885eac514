//! `berth balancer front`: one address for many machines, in XDP on a named interface.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use berth_balancer::l4::front;
use berth_daemon::Tasks;
use clap::Subcommand;

use crate::cli::{Global, until_the_end};
use crate::connect;
use crate::output::columns;

/// Nothing is under way in this process: the kernel forwards by itself.
const DRAIN: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Front {
    /// Put the front on its interface, check backends and follow the file (docs/XDP.md)
    Serve {
        /// Interface, services and backends, YAML
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// What the front of an interface holds and counted, whether or not a process follows it
    Show {
        /// The interface
        interface: String,
        /// Where its tables are kept
        #[arg(long, default_value = PINS)]
        pins: PathBuf,
    },
    /// Take the front from an interface
    Off {
        /// The interface
        interface: String,
        /// Where its tables are kept
        #[arg(long, default_value = PINS)]
        pins: PathBuf,
    },
}

const PINS: &str = "/sys/fs/bpf/berth-front";

/// Does what `what` says.
///
/// # Errors
/// When the kernel does not take the front, or there is none to be shown or taken away.
pub fn run(global: &Global, what: Front) -> Result<()> {
    match what {
        Front::Serve { config } => serve(global, config),
        Front::Show { interface, pins } => {
            let (shown, lost) = front::show(&pins, &interface)?;
            let all = serde_json::json!({ "backends": shown, "lost": lost });
            global.output.print(&all, || {
                let row = |one: &front::Shown| {
                    let front::Load { packets, bytes, connections } = one.load;
                    let there = if one.there { "yes" } else { "no" };
                    let numbers = [connections, packets, bytes].map(|number| number.to_string());
                    let backend = SocketAddr::new(one.backend, one.port).to_string();
                    let names = [one.service.clone(), backend, there.to_owned()];
                    [names, numbers].concat()
                };
                let rows: Vec<_> = shown.iter().map(row).collect();
                let header = ["SERVICE", "BACKEND", "THERE", "CONNECTIONS", "PACKETS", "BYTES"];
                let front::Lost { no_backend, unreachable, too_large, moved, no_port } = lost;
                format!(
                    "{}lost: {no_backend} without a backend, {unreachable} without a way, \
                     {too_large} too large, {no_port} without a port; {moved} moved\n",
                    columns(&header, &rows)
                )
            })
        }
        Front::Off { interface, pins } => {
            ensure!(front::off(&pins, &interface)?, "{interface} has no front");
            Ok(())
        }
    }
}

fn serve(global: &Global, config: PathBuf) -> Result<()> {
    berth_daemon::init_telemetry(None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let read: front::Reader = |text| Ok(serde_saphyr::from_str(text)?);
        // Only who has addresses for Services needs their cluster.
        let asks = !front::load(&config, read)?.addresses.is_empty();
        let cluster = if asks { Some(connect::inside_or_named(global).await?) } else { None };
        front::follow(config, read, cluster, &tasks).await?;
        until_the_end(&tasks, DRAIN).await
    })
}

#[cfg(test)]
mod tests {
    use super::front::{Front, Protocol, Way};

    #[test]
    fn what_the_documentation_shows_is_read() {
        let text = include_str!("../../../../docs/XDP.md");
        let block = text.split("```yaml\n").find(|block| block.starts_with("interface:"));
        let block = block.and_then(|block| block.split("```").next()).expect("it is shown");
        let front: Front = serde_saphyr::from_str(block).expect("it is read");
        front.check().expect("it is right");
        assert_eq!(front.services[0].protocol, Protocol::Tcp);
        assert_eq!(front.services[1].way, Way::Tunnelled);
        assert!(front.services[0].backends.iter().any(|backend| backend.drain));
        assert_eq!(front.services[2].way, Way::Translated);
        assert_eq!(front.addresses.len(), 1);
    }

    #[test]
    fn what_nobody_knows_is_refused_and_what_cannot_be_right_is_named() {
        let read = |text: &str| serde_saphyr::from_str::<Front>(text);
        assert!(read("interface: eth0\nservices: []\nport: 1\n").is_err());
        let twice = "interface: eth0\nservices:\n\
            - {address: 192.0.2.1, port: 80, protocol: TCP, backends: []}\n\
            - {address: 192.0.2.1, port: 80, protocol: TCP, backends: []}\n";
        let wrong = read(twice).expect("it is read").check().expect_err("it is there twice");
        assert_eq!(wrong.to_string(), "service 192.0.2.1:80: is there twice");
    }
}
