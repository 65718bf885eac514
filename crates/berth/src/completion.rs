//! Completion scripts for shells.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

/// `berth completion`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Whose script
    shell: Shell,
}

/// Prints the script.
pub fn run(options: &Options) -> Result<()> {
    let mut command = crate::cli::Cli::command();
    clap_complete::generate(options.shell, &mut command, "berth", &mut std::io::stdout());
    Ok(())
}
