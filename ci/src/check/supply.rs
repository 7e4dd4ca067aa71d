//! What mvps is made of: where its dependencies come from, under which licences, and that no code
//! of its own is unsafe.
//!
//! Known vulnerabilities are not looked up here: their database is on a host that a build machine
//! need not reach. `cargo ci advisories` does it where it is reachable.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::rig::command::{self, cargo};
use crate::rig::workspace;

/// Where every dependency comes from; nothing from a branch of somebody's repository.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Licences that code may be combined and passed on under, with its notices. The MPL is one file by
/// file, and no file of it is changed here.
const PERMITTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "MPL-2.0+",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// What must not be in a build, and why.
const BANNED: &[(&str, &str)] = &[
    (
        "openssl-sys",
        "TLS is rustls: one library, and nothing to install",
    ),
    ("native-tls", "TLS is rustls"),
    (
        "aws-lc-sys",
        "rustls computes with ring; one of them is enough, and this one needs cmake",
    ),
];

/// Everything that is wrong with what mvps and its fuzz targets are made of.
///
/// # Errors
/// If cargo cannot be asked.
pub fn findings() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for directory in [workspace::root().to_owned(), workspace::root().join("fuzz")] {
        let mut cargo = cargo();
        cargo
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(&directory);
        let output = command::run(&mut cargo, Duration::from_secs(300))?.stdout;
        let metadata: Value = serde_json::from_str(&output).context("cargo metadata")?;
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let text = |field: &str| package[field].as_str().unwrap_or_default();
            if package["source"].is_null() {
                let manifest = fs::read_to_string(text("manifest_path"))?;
                findings.extend(unsafe_finding(text("name"), &manifest));
            } else {
                let (name, source) = (text("name"), text("source"));
                findings.extend(finding(name, source, text("license")));
            }
        }
    }
    let root = fs::read_to_string(workspace::root().join(Path::new("Cargo.toml")))?;
    if !forbids_unsafe(&root) {
        findings.push("the workspace does not forbid unsafe code".to_owned());
    }
    findings.sort();
    findings.dedup();
    Ok(findings)
}

fn finding(name: &str, source: &str, license: &str) -> Option<String> {
    if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
        return Some(format!("{name} is banned: {reason}"));
    }
    if source != REGISTRY {
        return Some(format!("{name} comes from {source}"));
    }
    (!is_permitted(license)).then(|| format!("{name} is under {license:?}"))
}

/// An expression of SPDX (`OR` weaker than `AND`), or of cargo's older notation with slashes.
fn is_permitted(license: &str) -> bool {
    if let Some((bracketed, rest)) = license
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(") AND "))
    {
        return is_permitted(bracketed) && is_permitted(rest);
    }
    let alternatives = license.split(" OR ").flat_map(|one| one.split('/'));
    let mut alternatives = alternatives.map(str::trim);
    alternatives.any(|alternative| {
        let mut all = alternative.split(" AND ");
        all.all(|name| PERMITTED.contains(&name))
    })
}

fn unsafe_finding(name: &str, manifest: &str) -> Option<String> {
    let inherits = manifest.contains("[lints]\nworkspace = true");
    (!inherits && !forbids_unsafe(manifest))
        .then(|| format!("package {name} does not forbid unsafe code"))
}

fn forbids_unsafe(manifest: &str) -> bool {
    manifest.contains("unsafe_code = \"forbid\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_read() {
        for good in [
            "MIT",
            "MIT OR GPL-2.0-only",
            "Unlicense/MIT",
            "Apache-2.0 / MIT",
            "BSD-3-Clause AND BSD-2-Clause",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert!(is_permitted(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT OR Apache-2.0) AND GPL-3.0-only",
        ] {
            assert!(!is_permitted(bad), "{bad}");
        }
    }

    #[test]
    fn strange_packages_are_found() {
        assert_eq!(finding("bytes", REGISTRY, "MIT"), None);
        assert!(finding("bytes", "git+https://example.org/bytes", "MIT").is_some());
        assert!(finding("openssl-sys", REGISTRY, "MIT").is_some());
        assert!(unsafe_finding("x", "[package]\nname = \"x\"\n").is_some());
        assert!(unsafe_finding("x", "[lints]\nworkspace = true\n").is_none());
    }
}
