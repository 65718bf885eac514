//! `berth dns check|query|top|cache|flush|reload`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_dns::{Request, Shown};
use serde_json::{Map, Value};

use super::servers;
use crate::cli::{Global, on_one_thread};
use crate::connect;
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
    /// The control socket of a server on this machine, `control` of its settings. Absent: all DNS
    /// servers of the cluster, asked in their pods
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
}

/// Does what the verb says.
///
/// # Errors
/// When it cannot, or when a zone is not in order.
pub fn run(global: &Global, verb: Verb) -> Result<()> {
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
        Verb::Cache(socket) => tell(global, &socket, "cache", Request::Cache),
        Verb::Flush(socket) => tell(global, &socket, "flush", Request::Flush),
        Verb::Reload(socket) => tell(global, &socket, "reload", Request::Reload),
        Verb::Top { socket, count, format } => {
            let said = match &socket.control {
                Some(path) => on_one_thread(asked(path, Request::Top(count)))?,
                None => {
                    // What is tenth at one server may be first of all.
                    let most = count.saturating_mul(4).to_string();
                    let verb = ["top", "--count", &most, "--format", "json"].map(str::to_owned);
                    servers::together(&on_one_thread(of_cluster(global, &verb))?, count)
                }
            };
            format.print(&said, || {
                let mut text = String::new();
                for (list, title) in [("names", "NAME"), ("clients", "CLIENT")] {
                    let row = |one: &Value| {
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

fn check(file: &Path, origin: Option<&str>) -> Result<()> {
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

/// Asks one server, or all of the cluster, and prints what they say.
fn tell(global: &Global, socket: &Socket, verb: &str, request: Request) -> Result<()> {
    let said = on_one_thread(async {
        match &socket.control {
            Some(path) => asked(path, request).await,
            None => Ok(of_cluster(global, &[verb.to_owned()]).await?.into()),
        }
    })?;
    println!("{}", serde_json::to_string_pretty(&said)?);
    Ok(())
}

async fn of_cluster(global: &Global, verb: &[String]) -> Result<Map<String, Value>> {
    servers::ask(&connect::client(global).await?, verb).await
}

async fn asked(path: &Path, request: Request) -> Result<Value> {
    let said = berth_dns::ask(path, request).await;
    let said = said.with_context(|| format!("asking the server at {}", path.display()))?;
    match said["error"].as_str() {
        Some(error) => bail!("the server says: {error}"),
        None => Ok(said),
    }
}
