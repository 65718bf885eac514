//! `berth`: the one binary. Its subcommands start the parts or talk to them.

mod acme;
mod advise;
mod app;
mod backup;
mod balancer;
mod cli;
mod collector;
mod completion;
mod connect;
mod console;
mod controllers;
mod defrag;
mod deploy;
mod down;
mod exec;
mod failure;
mod images;
mod install;
mod instance;
mod logs;
mod output;
mod pods;
mod ports;
mod progress;
mod release;
mod report;
mod restore;
mod scheduler;
mod sim;
mod status;
mod store;
mod top;
mod up;
mod why;

use clap::Parser;

/// A third of the API server's time went into the system's allocator; docs/FIGURES.md has both.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing has chosen a TLS provider before main");
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
