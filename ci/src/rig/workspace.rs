//! Where the workspace is, its sources, and its binaries, built on demand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::rig::command::{self, cargo};

/// A build of everything from nothing, on two cores.
const BUILD_LIMIT: Duration = Duration::from_secs(2400);

/// The directories that hold the workspace's own Rust sources.
const SOURCES: &[&str] = &["mvps", "mvps-gc", "sim", "fuzz", "tests", "ci"];

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("ci is a member of the workspace")
}

/// Every Rust source of the workspace, relative to its root, sorted.
///
/// # Errors
/// If a directory cannot be read.
pub fn rust_files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for directory in SOURCES {
        collect(&root().join(directory), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path.strip_prefix(root())?.to_owned());
        }
    }
    Ok(())
}

/// How a binary is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Quick to compile.
    Dev,
    /// As users run it; the only one whose figures mean anything.
    Release,
}

/// Names a directory of release binaries that are taken as they are instead of being built, for
/// machines where compiling is the expensive part. Every use is announced: figures of a stale
/// binary are figures of something else.
const PREBUILT: &str = "MVPS_CI_PREBUILT";

/// Builds the binary of `package`, which has the same name, and says where it is.
///
/// # Errors
/// If it does not compile.
pub fn build(package: &str, profile: Profile) -> Result<PathBuf> {
    if profile == Profile::Release
        && let Some(directory) = std::env::var_os(PREBUILT)
    {
        let binary = PathBuf::from(directory).join(package);
        ensure!(binary.is_file(), "{PREBUILT}: no {}", binary.display());
        eprintln!("not built: {} ({PREBUILT})", binary.display());
        return Ok(binary);
    }
    // What cargo says is kept for an error message; silence for minutes looks like a hang.
    eprintln!("building {package}");
    let mut cargo = cargo();
    cargo
        .args(["build", "--package", package, "--bin", package])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(root());
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    eprintln!("building {package} ({profile:?})");
    let output = command::run(&mut cargo, BUILD_LIMIT)?.stdout;
    output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == package)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no executable called {package}"))
}

/// Which binary the drivers run.
#[derive(clap::Args, Clone, Debug)]
pub struct Binary {
    /// Run this binary instead of building one.
    #[arg(long)]
    pub mvps: Option<PathBuf>,
    /// How to build it.
    #[arg(long, value_enum, default_value = "dev")]
    pub profile: Profile,
}

impl Binary {
    /// Where it is: as given, or built.
    ///
    /// # Errors
    /// If it does not compile.
    pub fn path(&self) -> Result<PathBuf> {
        match &self.mvps {
            Some(path) => Ok(std::path::absolute(path)?),
            None => build("mvps", self.profile),
        }
    }
}
