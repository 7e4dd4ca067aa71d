//! `cargo ci advisories`: known vulnerabilities of what mvps and its fuzz targets are made of, by
//! `cargo audit` and the RustSec database.
//!
//! Not part of `cargo ci check`: the database is on a host that a build machine need not reach.
//! What is known and does not concern mvps is in `.cargo/audit.toml`, each with its reason; all
//! else fails, warnings included. Must never: pass without a database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::rig::command::{self, cargo, run_any};
use crate::rig::report::Report;
use crate::rig::workspace;

/// Compiling the tool, from nothing.
const INSTALL_LIMIT: Duration = Duration::from_secs(3600);

/// Fetching the database, and looking.
const AUDIT_LIMIT: Duration = Duration::from_secs(300);

/// A database with fewer advisories is a part of it: it has had more since 2023.
const ADVISORIES_MIN: u64 = 500;

/// What is audited.
const LOCK_FILES: &[&str] = &["Cargo.lock", "fuzz/Cargo.lock"];

/// Where the database comes from.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// A copy of the RustSec advisory database, which is used as it is; otherwise it is fetched.
    #[arg(long)]
    database: Option<PathBuf>,
}

/// Audits every lock file.
///
/// # Errors
/// If there is no database, or something in it concerns mvps.
pub fn run(options: &Options) -> Result<()> {
    let asked = run_any(cargo().args(["audit", "--version"]), AUDIT_LIMIT);
    if !asked.is_ok_and(|asked| asked.status.success()) {
        let mut install = cargo();
        install.args(["install", "cargo-audit", "--locked"]);
        command::run(&mut install, INSTALL_LIMIT)?;
    }
    let database = options.database.as_deref().map(std::path::absolute);
    let database = database.transpose()?;
    let mut report = Report::default();
    for lock_file in LOCK_FILES {
        report.check("advisories", lock_file, || {
            audit(lock_file, database.as_deref())
        });
    }
    report.finish("cargo ci advisories")
}

fn audit(lock_file: &str, database: Option<&Path>) -> Result<String> {
    let mut audit = cargo();
    audit.current_dir(workspace::root());
    audit.args(["audit", "--json", "--file", lock_file]);
    if let Some(database) = database {
        audit.args(["--no-fetch", "--db"]).arg(database);
    }
    let found = run_any(&mut audit, AUDIT_LIMIT)?;
    // It says nothing at all unless it had a database.
    let Ok(told) = serde_json::from_str(&found.stdout) else {
        bail!(
            "there is no advisory database, so nothing was audited: where github.com is out of \
             reach, pass a copy of RustSec/advisory-db with --database DIRECTORY\n{}",
            found.stderr
        );
    };
    judge(&told)
}

/// What `cargo audit` told, in words; an error if anything was found.
fn judge(told: &Value) -> Result<String> {
    let count = |path: &str| told.pointer(path).and_then(Value::as_u64);
    let advisories = count("/database/advisory-count").context("no count of advisories")?;
    let crates = count("/lockfile/dependency-count").context("no count of crates")?;
    ensure!(
        advisories >= ADVISORIES_MIN,
        "the database has {advisories} advisories: that is not all of it"
    );
    let vulnerabilities = told.pointer("/vulnerabilities/list");
    let vulnerabilities = vulnerabilities.and_then(Value::as_array);
    let mut found = vulnerabilities
        .context("no list of vulnerabilities")?
        .clone();
    // By kind: unsound, unmaintained, yanked, and a notice.
    let warnings = told.pointer("/warnings").and_then(Value::as_object);
    for of_kind in warnings.context("no warnings")?.values() {
        found.extend(of_kind.as_array().into_iter().flatten().cloned());
    }
    ensure!(
        found.is_empty(),
        "update what has a patched version (`cargo update -p`), and what does not concern mvps \
         gets a reason in .cargo/audit.toml:\n{}",
        found.iter().map(described).collect::<Vec<_>>().join("\n")
    );
    Ok(format!("{crates} crates, {advisories} advisories"))
}

fn described(finding: &Value) -> String {
    let text = |path: &str| finding.pointer(path).and_then(Value::as_str);
    format!(
        "  {} {}: {} {} (patched: {})",
        text("/package/name").unwrap_or("?"),
        text("/package/version").unwrap_or("?"),
        text("/advisory/id").or(text("/kind")).unwrap_or("?"),
        text("/advisory/title").unwrap_or_default(),
        finding.pointer("/versions/patched").unwrap_or(&Value::Null),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(advisories: u64, vulnerabilities: &[Value], unsound: &[Value]) -> Value {
        json!({
            "database": {"advisory-count": advisories},
            "lockfile": {"dependency-count": 7},
            "vulnerabilities": {"list": vulnerabilities},
            "warnings": {"unsound": unsound},
        })
    }

    #[test]
    fn whatever_is_found_fails_and_so_does_a_part_of_the_database() {
        let finding = json!({
            "advisory": {"id": "RUSTSEC-1", "title": "bad"},
            "package": {"name": "a", "version": "1.0.0"},
            "versions": {"patched": [">= 2"]},
        });
        let clean = judge(&told(1000, &[], &[])).expect("nothing is found");
        assert_eq!(clean, "7 crates, 1000 advisories");
        let one = std::slice::from_ref(&finding);
        for (told, says) in [
            (told(1000, one, &[]), "a 1.0.0: RUSTSEC-1 bad"),
            (told(1000, &[], one), "a 1.0.0: RUSTSEC-1 bad"),
            (told(58, &[], &[]), "not all of it"),
            (json!({}), "no count"),
        ] {
            let error = judge(&told).expect_err("it is not clean");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
