//! `cargo ci check`: formatting, lints, the direction of dependencies between packages and between
//! the rooms of a package, what the core must not use, the length of files, and what all of it is
//! made of.

mod dependencies;
mod length;
mod rooms;
mod source;
mod supply;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::rig::command;
use crate::rig::report::Report;
use crate::rig::workspace;

/// A clippy run from nothing compiles every dependency.
const CARGO_LIMIT: Duration = Duration::from_secs(2400);

/// Whether to check or to report.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Check nothing: print the rooms of mvps-core, of its engine and of ci, and what they import.
    #[arg(long)]
    report: bool,
    /// Report on the checkout in this directory instead of this one.
    #[arg(long, value_name = "DIR", requires = "report")]
    root: Option<PathBuf>,
}

/// Runs every check, or prints the report of the rooms.
///
/// # Errors
/// If a check fails, or a source cannot be read.
pub fn run(options: &Options) -> Result<()> {
    if options.report {
        return report_rooms(options.root.as_deref());
    }
    let mut report = Report::default();
    report.check("check", "cargo fmt", || cargo(&["fmt", "--all", "--check"]));
    let clippy = ["clippy", "--workspace", "--all-targets"];
    let deny = ["--", "-D", "warnings"];
    report.check("check", "clippy", || cargo(&[&clippy[..], &deny].concat()));
    report.check("check", "clippy with the simulation", || {
        cargo(&[&clippy[..], &["--features", "sim"], &deny].concat())
    });
    report.check("check", "direction of dependencies", || {
        let findings = dependencies::findings()?;
        verdict(findings, "as DESIGN §7 has them")
    });
    report.check("check", "origin, licences, no unsafe code", || {
        verdict(supply::findings()?, "advisories are not looked up here")
    });
    report.check("check", "rooms", || {
        let findings = rooms::findings(workspace::root(), rooms::HOUSES)?;
        verdict(findings, "imports go down, no file is in a cycle")
    });
    let files = workspace::rust_files()?;
    report.check("check", "names the core must not use", || {
        scan(&files, source::core_findings)
    });
    report.check("check", "purity of nbd and format", || {
        scan(&files, source::purity_findings)
    });
    report.check("check", "nothing left to do", || {
        scan(&files, source::unfinished_findings)
    });
    report.check("check", "length of files", || length::report(&files));
    report.finish("cargo ci check")
}

/// Prints the rooms of the checkout at `root`; of this one also what breaks the rules, which are
/// those of this one.
fn report_rooms(root: Option<&Path>) -> Result<()> {
    let own = workspace::root();
    print!("{}", rooms::report(root.unwrap_or(own), rooms::HOUSES)?);
    if root.is_none() {
        let findings = rooms::findings(own, rooms::HOUSES)?;
        println!("\n{} findings", findings.len());
        for finding in findings {
            println!("{finding}");
        }
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let mut cargo = command::cargo();
    cargo.args(arguments).current_dir(workspace::root());
    command::run(&mut cargo, CARGO_LIMIT)?;
    Ok(String::new())
}

/// Applies `rule` to every file that it concerns.
fn scan(files: &[PathBuf], rule: fn(&Path, &str) -> Vec<String>) -> Result<String> {
    let mut findings = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(workspace::root().join(path))?;
        findings.extend(rule(path, &text));
    }
    verdict(findings, &format!("{} files", files.len()))
}

fn verdict(findings: Vec<String>, good: &str) -> Result<String> {
    if findings.is_empty() {
        return Ok(good.to_owned());
    }
    bail!("{} findings\n{}", findings.len(), findings.join("\n"))
}
