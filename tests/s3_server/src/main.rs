//! The server as a process, with the proxy in front of it.
//!
//! The first line on standard output is the endpoint. Then every line on standard input is a
//! command, answered by one line: `cut`, `blackhole`, `restore` answer `ok`; `counts` answers a
//! JSON object. The process ends with its standard input, unless it was started `--detached`.
#![expect(clippy::print_stdout, reason = "standard output is the interface")]

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use s3_test_server::{ACCESS_KEY, BUCKET, Proxy, ProxyMode, REGION, S3Server, SECRET_KEY};
use tokio::io::{AsyncBufReadExt, BufReader};

#[derive(Parser)]
#[command(about = "An S3 server for tests, with an outage switch")]
struct Arguments {
    /// Where buckets and objects are kept.
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Stay when standard input ends.
    #[arg(long)]
    detached: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let hidden = "127.0.0.1:0".parse().context("a literal address")?;
    let server = S3Server::start(&arguments.dir, hidden)
        .await
        .context("starting the server")?;
    let proxy = Proxy::start(arguments.listen, server.address()).await;
    let proxy = proxy.with_context(|| format!("listening on {}", arguments.listen))?;
    println!("{}", proxy.endpoint());
    eprintln!(
        "export S3_ENDPOINT={} AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY} \
         AWS_REGION={REGION}  # bucket {BUCKET}",
        proxy.endpoint()
    );
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Some(command) = commands.next_line().await? {
        match command.trim() {
            "cut" => switch(&proxy, ProxyMode::Cut),
            "blackhole" => switch(&proxy, ProxyMode::Blackhole),
            "restore" => switch(&proxy, ProxyMode::Open),
            "counts" => println!("{}", serde_json::to_string(&server.counts())?),
            _ => println!("error: say cut, blackhole, restore or counts"),
        }
    }
    if arguments.detached {
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn switch(proxy: &Proxy, mode: ProxyMode) {
    proxy.set_mode(mode);
    println!("ok");
}
