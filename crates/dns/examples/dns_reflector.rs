//! Sends every DNS question on an interface back, in the driver: `dns_reflector INTERFACE reflect`,
//! the floor that `./dev bench dns-xdp` compares with. `dns_reflector INTERFACE pass` lets all through:
//! an end of a virtual cable takes what the other's driver sends only while it has a program too.

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::programs::{Xdp, XdpMode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [interface, name] = words.as_slice() else {
        anyhow::bail!("dns_reflector INTERFACE reflect|pass")
    };
    let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/reflect.bpf.o"));
    let mut loaded = EbpfLoader::new().load(object)?;
    let program: &mut Xdp = loaded.program_mut(name).context("reflect or pass")?.try_into()?;
    program.load()?;
    program.attach(interface, XdpMode::Driver)?;
    println!("ready");
    berth_daemon::wait_for_end().await?;
    Ok(())
}
