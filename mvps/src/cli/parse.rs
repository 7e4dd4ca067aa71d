//! From the words of a command line to what they ask for.

use std::ffi::OsString;

use clap::Parser as _;

use super::args::Cli;

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
