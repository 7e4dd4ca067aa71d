//! Carries out what was parsed.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;

use super::args::{CheckpointArgs, Command, StatusArgs};
use super::output::shown;
use super::parse::parse;
use super::{check, history, image, report, token, txn};
use crate::control::{CheckpointDone, ControlError, Reply, Request, ask};
use crate::{daemon, logging};

/// The binary: parses the process's arguments, carries them out, and reports what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let command = match parse(std::env::args_os()) {
        Ok(cli) => cli.command,
        Err(error) => error.exit(),
    };
    match carry_out(command) {
        Ok(code) => code,
        Err(error) => {
            // The last word of a process; a closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "mvps: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => {
            logging::start(&args.log.settings())?;
            daemon::run(&args.settings()?)
        }
        Command::Token(args) => print(&token::make(&args)?),
        Command::Image(args) => {
            logging::start(&args.command.log().settings())?;
            print(&block_on(image::carry_out(args.command))??)
        }
        Command::Snapshot(args) => {
            logging::start(&args.command.log().settings())?;
            print(&block_on(history::snapshot(args.command))??)
        }
        Command::Check(args) => {
            logging::start(&args.log.settings())?;
            let (text, code) = block_on(check::carry_out(&args))??;
            print(&text)?;
            Ok(code)
        }
        Command::Status(args) => status(&args),
        Command::Checkpoint(args) => checkpoint(&args),
        Command::Txn(args) => print(&block_on(txn::apply(&args))??),
    }
}

/// Prints a result, which is all that goes to stdout.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end()).context("the result cannot be printed")?;
    Ok(ExitCode::SUCCESS)
}

/// Runs something short, such as one question to the server.
fn block_on<T>(task: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(task))
}

fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let reply = block_on(ask(&args.buffer.buffer_store_path, &Request::Status))??;
    let Reply::Status(node) = reply else {
        anyhow::bail!("the server answered something else; is it of another version?");
    };
    print(&shown(args.output.output, &node, |node| {
        report::node(node)
    })?)
}

fn checkpoint(args: &CheckpointArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Checkpoint {
        image: args.image.to_string(),
    };
    let reply = match block_on(ask(&args.buffer.buffer_store_path, &request))? {
        Err(ControlError::NotOpen { image }) => anyhow::bail!(
            "image {image} is not open here: what is not open is checkpointed already"
        ),
        reply => reply?,
    };
    let Reply::Checkpointed(done) = reply else {
        anyhow::bail!("the server answered something else; is it of another version?");
    };
    let text =
        |done: &CheckpointDone| format!("{} is published as version {}", done.image, done.version);
    print(&shown(args.output.output, &done, text)?)
}
