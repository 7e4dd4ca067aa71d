//! The command line of `mvps`: parsing, and what each subcommand prints.
//!
//! Results go to stdout, logs and errors to stderr. The exit code is 0 if what was asked for was
//! done, 1 if it failed, 2 if the command line was wrong.

mod args;
mod check;
mod history;
mod image;
mod progress;
mod quantity;
mod report;
mod run;
mod token;
mod txn;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::Parser as _;

pub use args::{
    BufferStoreArgs, CheckpointArgs, Cli, ClientTlsArgs, CloneArgs, Command, DeleteArgs,
    DurabilityArg, ImageAdoptArgs, ImageArgs, ImageAt, ImageCommand, ImageListArgs, ImageNameArgs,
    ImageOperationArgs, ImageStoreArgs, ImageStoreKind, LogArgs, LogFormat, OperationArgs,
    OutputArgs, OutputFormat, PinsArgs, ResizeArgs, RollbackArgs, ServeArgs, SnapshotArgs,
    SnapshotCommand, SnapshotCreateArgs, SnapshotDeleteArgs, StatusArgs, TlsArgs, TokenArgs,
    TuningArgs, TxnArgs, VersionsArgs,
};
pub use check::CheckArgs;
pub use progress::ProgressLine;
pub use quantity::{ByteSize, Compression, parse_address, parse_span};
pub use run::main;

/// Parses a whole command line, the program's name first.
///
/// # Errors
/// What clap says; also for `--help` and `--version`, which it prints.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(with_default_subcommand(arguments.into_iter().collect()))
}

/// `serve` is meant where no subcommand is named: `mvps`, `mvps --listen …`.
fn with_default_subcommand(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let names_one = arguments.get(1).is_some_and(|first| {
        let first = first.to_string_lossy();
        !first.starts_with('-') || matches!(&*first, "-h" | "--help" | "-V" | "--version")
    });
    if !names_one {
        arguments.insert(arguments.len().min(1), OsString::from("serve"));
    }
    arguments
}
