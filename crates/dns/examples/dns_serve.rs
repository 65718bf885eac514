//! The server alone, without a cluster: `dns_serve ADDRESS ZONEFILE|UPSTREAM [INTERFACE MODE]`, one
//! thread; on INTERFACE in the kernel too, MODE being best, native or generic. What `./dev bench dns`
//! measures.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_daemon::Tasks;
use berth_dns::{Config, Mode, Xdp, ZoneFile};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (listen, what, kernel) = match words.as_slice() {
        [listen, what] => (listen, what, None),
        [listen, what, interface, mode] => (listen, what, Some((interface, mode))),
        _ => anyhow::bail!("dns_serve ADDRESS ZONEFILE|UPSTREAM [INTERFACE MODE]"),
    };
    let listen: SocketAddr = listen.parse().context("the address")?;
    let health = SocketAddr::new(listen.ip(), 0);
    let upstream = what.parse::<SocketAddr>().ok();
    let mut config = Config::new(listen, health, upstream.into_iter().collect());
    // As long as the upstream says, as the servers do that it is measured beside.
    config.longest = 86_400;
    if upstream.is_none() {
        config.zones = vec![ZoneFile { path: what.into(), origin: None }];
    }
    config.threads = Some(1);
    if let Some((interface, mode)) = kernel {
        let mode = match mode.as_str() {
            "best" => Mode::Best,
            "native" => Mode::Native,
            "generic" => Mode::Generic,
            _ => anyhow::bail!("{mode}: best, native or generic is one"),
        };
        config.xdp = Some(Xdp { mode, names: 204_000, ..Xdp::on(vec![interface.clone()]) });
    }
    let tasks = Tasks::new();
    berth_dns::run_for(config, vec![], &tasks).await?;
    println!("ready");
    berth_daemon::wait_for_end().await?;
    tasks.stop(Duration::from_secs(2)).await;
    Ok(())
}
