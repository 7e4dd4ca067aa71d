//! `cargo ci check`: formatting, lints, the direction of dependencies, what the core must not use,
//! the length of files, and what all of it is made of.

mod dependencies;
mod length;
mod source;
mod supply;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::rig::report::Report;
use crate::rig::{command, workspace};

/// A clippy run from nothing compiles every dependency.
const CARGO_LIMIT: Duration = Duration::from_secs(2400);

/// Runs every check.
///
/// # Errors
/// If one fails.
pub fn run() -> Result<()> {
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

fn cargo(arguments: &[&str]) -> Result<String> {
    let mut cargo = Command::new("cargo");
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
