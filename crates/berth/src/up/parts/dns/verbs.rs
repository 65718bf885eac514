//! `berth dns check|query|top|cache|flush|reload`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use berth_dns::{Request, Shown};

use crate::cli::on_one_thread;
use crate::output::Format;

/// What people ask.
#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Say what is wrong with a zone file, line by line
    Check {
        /// The zone file
        file: PathBuf,
        /// What its relative names are of, where the file does not say
        #[arg(long)]
        origin: Option<String>,
    },
    /// Ask a server for a name
    Query {
        /// The name
        name: String,
        /// The type of its records
        #[arg(default_value = "A")]
        kind: String,
        /// The server
        #[arg(long, short, default_value = "127.0.0.1:10053")]
        server: SocketAddr,
        /// Over TCP
        #[arg(long)]
        tcp: bool,
        /// How the answer is printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show what a server keeps, and how often that helped
    Cache(Socket),
    /// Let a server forget what other servers said
    Flush(Socket),
    /// Show what a server is asked for most, and who asks most
    Top {
        #[command(flatten)]
        socket: Socket,
        /// How many of each
        #[arg(long, default_value_t = 10)]
        count: usize,
        /// How they are printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Let a server read its settings and zone files again
    Reload(Socket),
}

/// Which server.
#[derive(clap::Args, Debug)]
pub struct Socket {
    /// Its control socket, `control` of its settings
    #[arg(long, default_value = "/run/berth-dns.sock")]
    control: PathBuf,
}

/// Does what the verb says.
///
/// # Errors
/// When it cannot, or when a zone is not in order.
pub fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Check { file, origin } => check(&file, origin.as_deref()),
        Verb::Query { name, kind, server, tcp, format } => {
            let said =
                on_one_thread(async { Ok(berth_dns::query(server, &name, &kind, tcp).await?) })?;
            format.print(&said, || {
                let mut text = format!(
                    "{}{}, {:.1} ms over {}\n",
                    said.code,
                    if said.authoritative { ", authoritative" } else { "" },
                    said.took_ms,
                    if said.tcp { "TCP" } else { "UDP" },
                );
                for (title, records) in [
                    ("answer", &said.answers),
                    ("authority", &said.authorities),
                    ("additional", &said.additionals),
                ] {
                    text.push_str(&section(title, records));
                }
                text
            })
        }
        Verb::Cache(socket) => print(&asked(&socket, Request::Cache)?),
        Verb::Flush(socket) => print(&asked(&socket, Request::Flush)?),
        Verb::Reload(socket) => print(&asked(&socket, Request::Reload)?),
        Verb::Top { socket, count, format } => {
            let said = asked(&socket, Request::Top(count))?;
            format.print(&said, || {
                let mut text = String::new();
                for (list, title) in [("names", "NAME"), ("clients", "CLIENT")] {
                    let row = |one: &serde_json::Value| {
                        let shown = |key: &str| one[key].to_string().trim_matches('"').to_owned();
                        vec![shown("queries"), shown("atMostTooHighBy"), shown("what")]
                    };
                    let rows: Vec<_> =
                        said[list].as_array().into_iter().flatten().map(row).collect();
                    text.push_str(&crate::output::columns(
                        &["QUERIES", "LESS UP TO", title],
                        &rows,
                    ));
                    text.push('\n');
                }
                text
            })
        }
    }
}

fn check(file: &std::path::Path, origin: Option<&str>) -> Result<()> {
    let problems =
        berth_dns::check(file, origin).with_context(|| format!("reading {}", file.display()))?;
    for problem in &problems {
        println!("{}:{problem}", file.display());
    }
    let wrong = problems.iter().filter(|problem| !problem.harmless).count();
    if wrong > 0 {
        bail!("{} is not in order: {wrong} errors", file.display());
    }
    Ok(())
}

fn section(title: &str, records: &[Shown]) -> String {
    if records.is_empty() {
        return String::new();
    }
    let row = |record: &Shown| {
        vec![record.name.clone(), record.ttl.to_string(), record.kind.clone(), record.data.clone()]
    };
    let rows: Vec<_> = records.iter().map(row).collect();
    format!("\n{title}\n{}", crate::output::columns(&["NAME", "TTL", "TYPE", "DATA"], &rows))
}

fn asked(socket: &Socket, request: Request) -> Result<serde_json::Value> {
    let path = &socket.control;
    let said = on_one_thread(async {
        let asked = berth_dns::ask(path, request).await;
        asked.with_context(|| format!("asking the server at {}", path.display()))
    })?;
    match said["error"].as_str() {
        Some(error) => bail!("the server says: {error}"),
        None => Ok(said),
    }
}

fn print(said: &serde_json::Value) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(said)?);
    Ok(())
}
