//! `cargo ci fuzz`: every target of `fuzz/` for its share of the time; a finding is a failure.
//!
//! Seeds (`fuzz/seeds`) are part of the repository; what the fuzzer finds worth keeping
//! (`fuzz/corpus`) and what it breaks something with (`fuzz/artifacts`) stay on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::rig::command::{self, cargo, run_any};
use crate::rig::report::Report;
use crate::rig::workspace;

/// Compiling everything with the fuzzer's instruments, from nothing.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// How long one input may take. The slowest targets take milliseconds.
const INPUT_LIMIT_SECONDS: u32 = 60;

/// How much longer than its share a target may run: it finishes the input it is at.
const GRACE: Duration = Duration::from_secs(120);

/// Memory of a target; over it is a finding. The whole server of `session` takes some 100 MiB.
const MEMORY_LIMIT_MIB: u32 = 1024;

/// Longest input: some requests with payload.
const INPUT_MAX_BYTES: u32 = 8192;

/// What to fuzz, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Minutes for all targets together.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
}

/// Builds the targets and runs them one after the other.
///
/// # Errors
/// If one does not compile or finds something.
pub fn run(options: &Options) -> Result<()> {
    let directory = workspace::root().join("fuzz");
    let mut targets = targets(&directory)?;
    if let Some(only) = &options.target {
        targets.retain(|target| target == only);
        ensure!(!targets.is_empty(), "there is no target {only}");
    }
    let binaries = build(&directory)?;
    let seconds = options.minutes.max(0.0) * 60.0 / targets.len() as f64;
    let share = Duration::from_secs_f64(seconds.max(1.0));
    let mut report = Report::default();
    for target in &targets {
        report.check("fuzz", target, || {
            fuzz(&directory, &binaries.join(target), target, share)
        });
    }
    report.finish("cargo ci fuzz")
}

/// The targets, by the names of their sources.
fn targets(directory: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(directory.join("fuzz_targets"))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            targets.push(name.to_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

/// Compiles all targets, with nightly or, where there is none, with what there is; says where the
/// binaries are. No sanitizer: mvps has no unsafe code, and the oracles find more per second.
fn build(directory: &Path) -> Result<PathBuf> {
    let asked = run_any(cargo().args(["fuzz", "--version"]), GRACE)?;
    if !asked.status.success() {
        let mut install = cargo();
        install.args(["install", "cargo-fuzz", "--locked"]);
        command::run(&mut install, BUILD_LIMIT)?;
    }
    let asked = run_any(cargo().args(["+nightly", "--version"]), GRACE)?;
    let mut cargo = cargo();
    if asked.status.success() {
        cargo.arg("+nightly");
    } else {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    let target_directory = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(shared) => PathBuf::from(shared).join("fuzz"),
        None => directory.join("target"),
    };
    cargo
        .args(["fuzz", "build", "--sanitizer", "none", "--fuzz-dir"])
        .arg(directory)
        .arg("--target-dir")
        .arg(&target_directory)
        .current_dir(directory);
    command::run(&mut cargo, BUILD_LIMIT)?;
    let host = command::run(
        Command::new("rustc").args(["--version", "--verbose"]),
        GRACE,
    )?;
    let host = host
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say for which machine it compiles")?;
    Ok(target_directory.join(host).join("release"))
}

fn fuzz(directory: &Path, binary: &Path, target: &str, share: Duration) -> Result<String> {
    let corpus = directory.join("corpus").join(target);
    let artifacts = directory.join("artifacts").join(target);
    let seeds = directory.join("seeds").join(target);
    for path in [&corpus, &artifacts, &seeds] {
        fs::create_dir_all(path)?;
    }
    let output = artifacts.join("output.log");
    let mut fuzzer = Command::new(binary);
    fuzzer
        .args([&corpus, &seeds])
        .arg(format!("-max_total_time={}", share.as_secs()))
        .arg(format!("-timeout={INPUT_LIMIT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
        .arg(format!("-max_len={INPUT_MAX_BYTES}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .stdin(Stdio::null())
        .stdout(fs::File::create(&output)?)
        .stderr(fs::File::options().append(true).open(&output)?);
    let mut child = fuzzer
        .spawn()
        .with_context(|| format!("{}", binary.display()))?;
    let (finished, processor) = watch(&mut child, share + GRACE)?;
    let log = String::from_utf8_lossy(&fs::read(&output)?).into_owned();
    let figures = Figures::of(&log);
    let figures = format!(
        "{} executions, {:.0} s of processor time, coverage {} edges, {} features",
        figures.executions,
        processor.as_secs_f64(),
        figures.edges,
        figures.features
    );
    if !finished {
        bail!("{figures}\n{}", command::tail(&log));
    }
    Ok(format!("{figures}, no finding"))
}

/// Waits for `child`; returns whether it succeeded, and the processor time it took as last seen.
fn watch(child: &mut Child, limit: Duration) -> Result<(bool, Duration)> {
    let deadline = Instant::now() + limit;
    let mut processor = Duration::ZERO;
    loop {
        if let Some(seen) = processor_time(child.id()) {
            processor = seen;
        }
        if let Some(status) = command::wait_within(child, Duration::from_millis(500))? {
            return Ok((status.success(), processor));
        }
        if Instant::now() >= deadline {
            let _gone = child.kill();
            child.wait()?;
            return Ok((false, processor));
        }
    }
}

/// User and system time of a process, from `/proc`, in whose units a second has 100 ticks.
fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name, in brackets, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// What libFuzzer says of its run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    edges: u64,
    features: u64,
}

impl Figures {
    fn of(log: &str) -> Self {
        let last = |label: &str| {
            let mut values = log.lines().filter_map(|line| {
                let after = line.split_once(label)?.1;
                after.split_whitespace().next()?.parse().ok()
            });
            values.next_back().unwrap_or(0)
        };
        Self {
            executions: last("stat::number_of_executed_units:"),
            edges: last(" cov: "),
            features: last(" ft: "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_fuzzers_words() {
        let log = "#2\tINITED cov: 17 ft: 18 corp: 1/1b exec/s: 0\n\
                   #9\tDONE   cov: 227 ft: 530 corp: 22/162b lim: 4096\n\
                   stat::number_of_executed_units: 463565\n";
        let expected = Figures {
            executions: 463_565,
            edges: 227,
            features: 530,
        };
        assert_eq!(Figures::of(log), expected);
        assert_eq!(Figures::of("killed"), Figures::default());
    }
}
