//! `cargo ci variants`: known-bad variants of the code that the simulation does not run yet
//! (collection and the operators' commands), of sealing, of the content log, of the disk cache, and of connections.
//!
//! The core's own tests of that code, built with selectable variants, must pass as they are and
//! fail under each variant. Each scenario of the protocol's models must fail under the variant that
//! breaks its rule.
//!
//! Must never: take a build that fails, or a test that hangs, for a variant that was noticed.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mvps_core::mutant::{CONTENT_LOG, FRAME_CACHE, SCENARIOS, TESTED, TESTED_VARIABLE};

use crate::rig::command::{cargo, run, run_any, tail};
use crate::rig::report::Report;
use crate::rig::workspace;

/// The tests that are to notice: they end within seconds, and nothing else is about these rules.
const TESTS: &[&str] = &[
    "admin::",
    "check::",
    "collector::",
    "encryption::",
    "engine::tests::fencing::",
    "engine::tests::room::",
    "format::frame::",
    "protocol::tenure::",
    "reachability::",
    "scenarios::",
    "session::server::tests::a_flood_",
    "session::server::tests::what_a_lost_",
    "session::tests::a_disconnect_",
];

/// The tests that are to notice variants of the content log.
const LOG_TESTS: &[&str] = &["content_log::"];

/// The tests that are to notice variants of the disk cache.
const CACHE_TESTS: &[&str] = &["disk_pieces::", "frame_cache::"];

/// Compiling the core and its dependencies once more, on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

/// All tests once; they take half a minute on two cores.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// What a run of tests says when one of them failed, and when none did.
const FAILED: &str = "test result: FAILED.";
const PASSED: &str = "test result: ok.";

/// Runs the tests as they are, then under each variant.
///
/// # Errors
/// If they fail as they are, or pass under a variant.
pub fn run_all() -> Result<()> {
    run(core_tests().arg("--no-run"), BUILD_LIMIT)?;
    let mut report = Report::default();
    report.check("variants", "none", || {
        let tests = TESTS.iter().chain(LOG_TESTS).chain(CACHE_TESTS);
        let finished = run(core_tests().arg("--").args(tests), RUN_LIMIT)?;
        ensure!(finished.stdout.contains(PASSED), "no test was run");
        Ok(summary(&finished.stdout, PASSED))
    });
    for name in TESTED {
        report.check("variants", name, || noticed(name, TESTS));
    }
    for name in CONTENT_LOG {
        report.check("content log", name, || noticed(name, LOG_TESTS));
    }
    for name in FRAME_CACHE {
        report.check("disk cache", name, || noticed(name, CACHE_TESTS));
    }
    for (path, variant) in SCENARIOS {
        let what = format!("{path} under {variant}");
        report.check("scenarios", &what, || noticed(variant, &[*path, "--exact"]));
    }
    report.finish("cargo ci variants")
}

/// Runs those tests under a variant: at least one must fail.
fn noticed(variant: &str, arguments: &[&str]) -> Result<String> {
    let mut tests = core_tests();
    tests.arg("--").args(arguments);
    let finished = run_any(tests.env(TESTED_VARIABLE, variant), RUN_LIMIT)?;
    if finished.stdout.contains(PASSED) {
        bail!("no test noticed it");
    }
    let noticed = finished.stdout.contains(FAILED);
    ensure!(noticed, "no test ended: {}", tail(&finished.output()));
    Ok(summary(&finished.stdout, FAILED))
}

/// The counts behind the verdict.
fn summary(output: &str, verdict: &str) -> String {
    let lines = output.lines().filter_map(|line| line.strip_prefix(verdict));
    let counts: Vec<&str> = lines.flat_map(|line| line.split(';').take(2)).collect();
    counts.join(",").trim().to_owned()
}

/// The core's tests with selectable variants.
fn core_tests() -> Command {
    let mut command = cargo();
    command
        .args(["test", "--package", "mvps-core", "--lib"])
        .args(["--features", "variants"])
        .current_dir(workspace::root())
        // What fails under a variant is no regression of the core.
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .env_remove(TESTED_VARIABLE);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_verdict() {
        let output = "test a ... ok\ntest result: FAILED. 40 passed; 2 failed; 0 ignored; x\n";
        assert_eq!(summary(output, FAILED), "40 passed, 2 failed");
        assert_eq!(summary(output, PASSED), "");
    }
}
