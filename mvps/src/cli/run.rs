//! Carries out what was parsed.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;

use super::{
    CheckpointArgs, Command, OutputFormat, StatusArgs, check, history, image, report, token, txn,
};
use crate::control::{ControlError, Reply, Request, ask};
use crate::{daemon, logging};

/// The binary: parses the process's arguments, carries them out, and reports what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let command = match super::parse(std::env::args_os()) {
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
            logging::start(&args.log)?;
            daemon::run(&args)
        }
        Command::Token(args) => print(&token::make(&args)?),
        Command::Image(args) => {
            logging::start(args.command.log())?;
            print(&block_on(image::carry_out(args.command))??)
        }
        Command::Snapshot(args) => {
            logging::start(args.command.log())?;
            print(&block_on(history::snapshot(args.command))??)
        }
        Command::Check(args) => {
            logging::start(&args.log)?;
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

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<ExitCode> {
    print(&serde_json::to_string_pretty(value)?)
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
    match args.output.output {
        OutputFormat::Json => print_json(&node),
        OutputFormat::Human => print(&report::node(&node)),
    }
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
    match args.output.output {
        OutputFormat::Json => print_json(&done),
        OutputFormat::Human => print(&format!(
            "{} is published as version {}",
            done.image, done.version
        )),
    }
}
