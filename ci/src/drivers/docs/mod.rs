//! `cargo ci docs`: every command of README.md and of the handbook, as it is printed.
//!
//! The documents are those of a clone of the work tree as it is. Each section has a directory and
//! ports of its own. [`document`] says how blocks are marked, [`placeholders`] what is not run as
//! it is printed.
//!
//! Must never: leave a block out without saying so.

mod document;
mod placeholders;
mod shell;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::rig::command;
use crate::rig::machine;
use crate::rig::object_server::{ACCESS_KEY, BUCKET, ObjectServer, SECRET_KEY};
use crate::rig::report::Report;
use crate::rig::workspace::{self, Binary};

use document::{Manner, Section, Step};
use placeholders::Placeholders;
use shell::{Place, Shell};

/// The documents, and what they are called in the table.
const DOCUMENTS: [(&str, &str); 2] = [
    ("README", "README.md"),
    ("operations", "mvps/docs/operations.md"),
];

/// How long git may take.
const GIT_LIMIT: Duration = Duration::from_secs(120);

/// Which blocks.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Also run the blocks that compile for minutes.
    #[arg(long)]
    slow: bool,
    /// Only the sections with this in their heading.
    #[arg(long)]
    only: Option<String>,
}

/// Runs them.
///
/// # Errors
/// If a document is not understood, or a block fails.
pub fn run(binary: &Binary, options: &Options) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let directory = TempDir::with_prefix("docs")?;
    let clone = clone(directory.path())?;
    let mut documents = Vec::new();
    for (area, path) in DOCUMENTS {
        let text = fs::read_to_string(clone.join(path))?;
        documents.push((area, document::sections(&text).context(path)?));
    }
    let bench = Bench {
        binaries: binaries(binary, directory.path())?,
        directory: directory.path().to_owned(),
        clone,
        slow: options.slow,
    };
    let mut report = Report::default();
    let wanted = options.only.as_deref().unwrap_or_default();
    let mut found = false;
    for (area, sections) in &documents {
        for (at, section) in sections.iter().enumerate() {
            if section.heading.contains(wanted) {
                found = true;
                bench.section(&mut report, area, &format!("{area}{at}"), section)?;
            }
        }
    }
    ensure!(found, "no section has {wanted:?} in its heading");
    report.finish("cargo ci docs")
}

/// A clone of the work tree, with what is not committed.
fn clone(directory: &Path) -> Result<PathBuf> {
    let (root, clone) = (workspace::root(), directory.join("clone"));
    let mut git = Command::new("git");
    git.args(["clone", "--quiet"]).arg(root).arg(&clone);
    command::run(&mut git, GIT_LIMIT)?;
    let changes = directory.join("changes");
    let mut git = Command::new("git");
    git.args(["diff", "--binary", "HEAD"]).arg("--output");
    git.arg(&changes).current_dir(root);
    command::run(&mut git, GIT_LIMIT)?;
    if fs::metadata(&changes)?.len() > 0 {
        eprintln!("the clone has uncommitted changes");
        let mut git = Command::new("git");
        git.args(["apply", "--whitespace=nowarn"]).arg(&changes);
        command::run(git.current_dir(&clone), GIT_LIMIT)?;
    }
    Ok(clone)
}

/// A directory with what a reader has installed.
fn binaries(binary: &Binary, directory: &Path) -> Result<PathBuf> {
    let binaries = directory.join("bin");
    fs::create_dir(&binaries)?;
    for (name, path) in [
        ("mvps", binary.path()?),
        ("mvps-gc", workspace::build("mvps-gc", binary.profile)?),
    ] {
        std::os::unix::fs::symlink(path, binaries.join(name))?;
    }
    Ok(binaries)
}

/// What all sections share.
struct Bench {
    directory: PathBuf,
    binaries: PathBuf,
    clone: PathBuf,
    slow: bool,
}

impl Bench {
    /// Runs one section; what fails in it is in the report.
    fn section(
        &self,
        report: &mut Report,
        area: &str,
        name: &str,
        section: &Section,
    ) -> Result<()> {
        let directory = self.directory.join(name);
        fs::create_dir(&directory)?;
        let ports = free_ports()?;
        let mut running = Running {
            placeholders: Placeholders::new(&directory.to_string_lossy(), ports),
            shell: Shell::new(&directory, &self.binaries, self.variables(ports[0])?),
            directory,
            bench: self,
            object_server: None,
        };
        for (line, step) in &section.steps {
            let row = format!("{line:>3} {}", section.heading);
            match step {
                Step::NotRun(reason) => report.not_run(area, &row, reason),
                Step::Run(manner, _) if manner.slow && !self.slow => {
                    report.not_run(area, &row, "it takes minutes; --slow runs it");
                }
                step if step.is_block() => {
                    report.check(area, &row, || running.step(step));
                }
                step => {
                    if let Err(error) = running.step(step) {
                        report.check(area, &row, || Err(error.context("around its blocks")));
                    }
                }
            }
        }
        if let Err(error) = running.shell.stop() {
            let row = format!("end {}", section.heading);
            report.check(area, &row, || Err(error));
        }
        Ok(())
    }

    /// What is set for a reader's commands: where they listen and connect without a flag, and where
    /// cargo puts what it makes.
    fn variables(&self, port: u16) -> Result<Vec<(String, String)>> {
        let address = format!("127.0.0.1:{port}");
        let built = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let built = std::path::absolute(built.unwrap_or(workspace::root().join("target")))?;
        let installed = self.directory.join("installed");
        Ok([
            ("MVPS_TE_LISTEN", address.clone()),
            ("MVPS_TE_CONNECT", address),
            ("CARGO_TARGET_DIR", built.to_string_lossy().into_owned()),
            (
                "CARGO_INSTALL_ROOT",
                installed.to_string_lossy().into_owned(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec())
    }
}

/// Two loopback ports that were free a moment ago.
fn free_ports() -> Result<[u16; 2]> {
    let listeners = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    let [one, two] = &listeners;
    Ok([one.local_addr()?.port(), two.local_addr()?.port()])
}

/// One section that is being run.
struct Running<'a> {
    bench: &'a Bench,
    directory: PathBuf,
    placeholders: Placeholders,
    shell: Shell,
    object_server: Option<ObjectServer>,
}

impl Running<'_> {
    fn step(&mut self, step: &Step) -> Result<String> {
        let here = Place {
            clone: None,
            slow: false,
        };
        match step {
            Step::Run(manner, block) => self.block(*manner, block),
            Step::File(name, content) => {
                self.shell.write(name, &self.placeholders.fill(content))?;
                Ok(format!("written to {name}"))
            }
            Step::Setup(commands) => {
                let commands = self.placeholders.fill(commands);
                self.shell.run(here, &commands, false)
            }
            Step::Server(flags) => {
                let command = self.placeholders.fill(&format!("mvps serve {flags}\n"));
                self.shell.start(here, &command)
            }
            Step::Stop => self.shell.stop().map(|()| String::new()),
            Step::Crash => self.shell.crash().map(|()| String::new()),
            Step::S3 => self.serve_s3(),
            Step::NotRun(reason) => Ok(reason.clone()),
        }
    }

    fn block(&mut self, manner: Manner, block: &str) -> Result<String> {
        let block = self.placeholders.fill(block);
        let place = Place {
            clone: manner.clone.then_some(self.bench.clone.as_path()),
            slow: manner.slow,
        };
        if manner.background {
            return self.shell.start(place, &block);
        }
        let seen = self.shell.run(place, &block, manner.fails)?;
        if manner.stops {
            self.shell.wait_for_servers()?;
        }
        Ok(seen)
    }

    fn serve_s3(&mut self) -> Result<String> {
        ensure!(self.object_server.is_none(), "one S3 server is enough");
        let server = ObjectServer::start(&self.directory.join("s3"))?;
        let endpoint = server.endpoint();
        self.placeholders
            .add_s3(endpoint, BUCKET, ACCESS_KEY, SECRET_KEY);
        self.object_server = Some(server);
        Ok(String::new())
    }
}
