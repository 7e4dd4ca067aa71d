//! The shell of one section: its directory, its variables, its servers.
//!
//! Every block is run by a bash of its own, so that it has a limit of time and an outcome. What it
//! assigns is there in the next one.
//!
//! Invariant: dropping a [`Shell`] kills what still runs of its servers.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::rig::command;

/// How long a block may take.
const BLOCK_LIMIT: Duration = Duration::from_secs(180);

/// How long a block may take that compiles.
const SLOW_LIMIT: Duration = Duration::from_secs(3600);

/// How long a server may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a server may take to end: it drains.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// What a server says when it is ready, in each format of its log.
const READY: [&str; 2] = [": ready ", "\"message\":\"ready\""];

/// Variables of whoever runs the driver that a reader does not have.
const FOREIGN_VARIABLES: [&str; 4] = ["MVPS_TE_", "AWS_", "S3_ENDPOINT", "_RJEM_"];

/// Around a block: an error ends it, and its variables are kept for the next.
const BEFORE: &str = "set -e -a\nif [ -e \"$1\" ]; then . \"$1\"; fi\n";
const AFTER: &str = "\nexport -p | grep -v -e SHELLOPTS -e BASHOPTS > \"$1\"\n";

/// A server ends when it is asked to, and its shell says how.
const BEFORE_SERVER: &str = "trap : TERM\n";

/// Where a block is run, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The root of a clone, if not in the section's own directory.
    pub clone: Option<&'a Path>,
    /// Whether it may compile.
    pub slow: bool,
}

/// A shell.
#[derive(Debug)]
pub struct Shell {
    directory: PathBuf,
    binaries: PathBuf,
    variables: Vec<(String, String)>,
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    child: Child,
    log: PathBuf,
}

impl Shell {
    /// A shell in `directory`, with `binaries` first on the path and `variables` set.
    pub fn new(directory: &Path, binaries: &Path, variables: Vec<(String, String)>) -> Self {
        Self {
            directory: directory.to_owned(),
            binaries: binaries.to_owned(),
            variables,
            servers: Vec::new(),
        }
    }

    /// Writes a file that a document shows.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> Result<()> {
        Ok(fs::write(self.directory.join(name), content)?)
    }

    /// Runs a block; the result is the last line that it printed, of its log if nothing else.
    ///
    /// # Errors
    /// If it fails, or does not where `fails` says that it must.
    pub fn run(&self, place: Place<'_>, block: &str, fails: bool) -> Result<String> {
        let limit = if place.slow { SLOW_LIMIT } else { BLOCK_LIMIT };
        let mut bash = self.bash(place, &format!("{BEFORE}{block}{AFTER}"));
        let finished = command::run_any(&mut bash, limit)?;
        let output = finished.output();
        if finished.status.success() == fails {
            let status = finished.status;
            bail!("{status}\n{}\n{}", block.trim_end(), command::tail(&output));
        }
        let said = [finished.stdout.as_str(), finished.stderr.as_str()];
        let last = said.iter().find_map(|stream| last_line(stream));
        Ok(shortened(last.unwrap_or_default()))
    }

    /// Starts a server and waits until it says that it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready in time.
    pub fn start(&mut self, place: Place<'_>, block: &str) -> Result<String> {
        let log = self
            .directory
            .join(format!("server-{}.log", self.servers.len()));
        let output = File::create(&log)?;
        let mut bash = self.bash(place, &format!("{BEFORE}{BEFORE_SERVER}{block}"));
        bash.stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        let child = bash.spawn().context("starting bash")?;
        self.servers.push(Server { child, log });
        let server = self.servers.last_mut().expect("just pushed");
        let limit = if place.slow { SLOW_LIMIT } else { START_LIMIT };
        server.wait_until_ready(limit)?;
        Ok("ready".to_owned())
    }

    /// Asks every server to end, and waits for that.
    ///
    /// # Errors
    /// If one had failed, or fails to drain.
    pub fn stop(&mut self) -> Result<()> {
        for server in &self.servers {
            command::terminate_group(&server.child)?;
        }
        self.wait_for_servers()
    }

    /// Kills every server, and waits until nothing is left of it.
    ///
    /// # Errors
    /// If one had failed before.
    pub fn crash(&mut self) -> Result<()> {
        for server in &self.servers {
            command::kill_group(&server.child)?;
        }
        self.wait_for_servers()
    }

    /// Waits until every server has ended, which something else has brought about.
    ///
    /// # Errors
    /// If one does not end, or ended in failure.
    pub fn wait_for_servers(&mut self) -> Result<()> {
        while let Some(mut server) = self.servers.pop() {
            server.wait_for_end()?;
        }
        Ok(())
    }

    fn bash(&self, place: Place<'_>, script: &str) -> Command {
        let mut bash = Command::new("bash");
        bash.args(["-c", script, "docs"])
            .arg(self.directory.join(".variables"))
            .current_dir(place.clone.unwrap_or(&self.directory));
        for (name, _) in std::env::vars() {
            if FOREIGN_VARIABLES.iter().any(|one| name.starts_with(one)) {
                bash.env_remove(name);
            }
        }
        let inherited = std::env::var("PATH").unwrap_or_default();
        let binaries = self.binaries.display();
        bash.env("PATH", format!("{binaries}:/usr/bin:/usr/sbin:{inherited}"));
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        bash.envs(variables);
        bash
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if matches!(server.child.try_wait(), Ok(None)) {
                let _gone_already = command::kill_group(&server.child);
                let _reaped_already = server.child.wait();
            }
        }
    }
}

impl Server {
    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        command::tail(&text)
    }

    fn wait_until_ready(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let log = fs::read_to_string(&self.log)?;
            if READY.iter().any(|ready| log.contains(ready)) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended: {status}\n{}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("not ready after {limit:?}\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A server that a block killed with a signal has not failed.
    fn wait_for_end(&mut self) -> Result<()> {
        let Some(status) = command::wait_within(&mut self.child, STOP_LIMIT)? else {
            let _gone_already = command::kill_group(&self.child);
            bail!("a server still runs\n{}", self.log_tail());
        };
        command::wait_for_group(&self.child, STOP_LIMIT)?;
        // A shell says 128 and the signal's number of a command that a signal ended.
        let killed = status.code().is_none_or(|code| code >= 128);
        ensure!(
            status.success() || killed,
            "the server ended with {status}\n{}",
            self.log_tail()
        );
        Ok(())
    }
}

fn last_line(text: &str) -> Option<&str> {
    text.lines()
        .map(str::trim)
        .rev()
        .find(|line| !line.is_empty())
}

/// A line for the table.
fn shortened(line: &str) -> String {
    const KEPT_CHARS: usize = 60;
    match line.char_indices().nth(KEPT_CHARS) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'static> = Place {
        clone: None,
        slow: false,
    };

    #[test]
    fn variables_reach_the_next_block_and_errors_end_one() {
        let directory = tempfile::tempdir().expect("temporary folder");
        let variables = vec![("GIVEN".to_owned(), "given".to_owned())];
        let shell = Shell::new(directory.path(), directory.path(), variables);
        let run = |block: &str, fails| shell.run(HERE, block, fails);
        run(
            "ONE=$(echo a b)\nexport TWO=\"$ONE\"   # and a comment\n",
            false,
        )
        .expect("runs");
        let seen = run("echo \"$ONE/$TWO/$GIVEN\"\n", false);
        assert_eq!(seen.expect("runs"), "a b/a b/given");
        let error = run("echo seen\nfalse\necho unseen\n", false).expect_err("fails");
        let error = error.to_string();
        assert!(error.contains("\nseen"), "{error}");
        run("false\n", true).expect("must fail");
        run("true\n", true).expect_err("must fail");
    }

    #[test]
    fn a_server_goes_on_until_it_is_stopped() {
        let directory = tempfile::tempdir().expect("temporary folder");
        let mut shell = Shell::new(directory.path(), directory.path(), Vec::new());
        shell
            .start(HERE, "echo x: ready y; sleep 60\n")
            .expect("ready");
        shell.stop().expect("ended by a signal");
        shell.start(HERE, "echo no; exit 3\n").expect_err("ended");
        shell
            .start(HERE, "echo x: ready y; exit 3\n")
            .expect("ready");
        let error = shell.stop().expect_err("failed").to_string();
        assert!(error.contains("exit status: 3"), "{error}");
    }
}
