//! Runs other programs: each with a limit of time, its output kept so that a failure can be read.
//!
//! Invariants: a program that outlives its limit is killed with everything it started (it runs in
//! its own process group); nothing here waits for ever.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

/// How often a running program is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The lines of output that an error message carries.
const OUTPUT_TAIL_LINES: usize = 40;

/// How long a program may run on after SIGSTOP.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output alone, for programs whose output is data.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Finished {
    /// Both streams, for messages and for searching.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A cargo that knows nothing of the one that runs this program, which describes this package in the
/// environment: build scripts that look at that would run again, and with them everything that
/// stands on TLS would be compiled again.
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let described = [
            "CARGO_MANIFEST_",
            "CARGO_PKG_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ];
        let name = name.to_string_lossy();
        if described.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    command
}

/// Runs `command` for at most `limit` and returns what it left, whatever its exit status.
///
/// # Errors
/// If it cannot be started or outlives `limit`.
pub fn run_any(command: &mut Command, limit: Duration) -> Result<Finished> {
    let described = describe(command);
    let scratch = tempfile::tempdir().context("a directory for a program's output")?;
    let (out_path, err_path) = (scratch.path().join("out"), scratch.path().join("err"));
    command
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out_path)?)
        .stderr(fs::File::create(&err_path)?)
        .process_group(0);
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {described}"))?;
    let waited = wait_within(&mut child, limit);
    let elapsed = started.elapsed();
    let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (stdout, stderr) = (read(&out_path)?, read(&err_path)?);
    match waited? {
        Some(status) => Ok(Finished {
            status,
            stdout,
            stderr,
            elapsed,
        }),
        None => {
            let _gone = kill_process_group(pid_of(&child), Signal::KILL);
            child.wait()?;
            bail!(
                "{described}: not finished after {limit:?}\n{}",
                tail(&format!("{stdout}{stderr}"))
            )
        }
    }
}

/// Runs `command` for at most `limit`; a nonzero exit status is an error that carries its output.
///
/// # Errors
/// If it cannot be started, outlives `limit` or fails.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let finished = run_any(command, limit)?;
    if finished.status.success() {
        return Ok(finished);
    }
    bail!(
        "{}: {}\n{}",
        describe(command),
        finished.status,
        tail(&finished.output())
    )
}

/// Waits for `child` at most `limit`; `None` if it still runs then.
///
/// # Errors
/// If the operating system refuses to say.
pub fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Asks `child` to end (SIGTERM).
///
/// # Errors
/// If the signal cannot be sent.
pub fn terminate(child: &Child) -> Result<()> {
    kill_process(pid_of(child), Signal::TERM).context("sending SIGTERM")
}

/// Asks `child` and everything in its process group to end (SIGTERM); nothing if they have.
///
/// # Errors
/// If the signal cannot be sent.
pub fn terminate_group(child: &Child) -> Result<()> {
    signal_group(child, Signal::TERM)
}

/// Kills `child` and everything in its process group; nothing if they have ended.
///
/// # Errors
/// If the signal cannot be sent.
pub fn kill_group(child: &Child) -> Result<()> {
    signal_group(child, Signal::KILL)
}

fn signal_group(child: &Child, signal: Signal) -> Result<()> {
    match kill_process_group(pid_of(child), signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("signalling a process group"),
    }
}

/// Waits until nothing is left of the process group of `child`, which has ended itself.
///
/// # Errors
/// If something still runs after `limit`.
pub fn wait_for_group(child: &Child, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while test_kill_process_group(pid_of(child)).is_ok() {
        if Instant::now() >= deadline {
            bail!("something of a process group still runs after {limit:?}");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Stops `child` where it is (SIGSTOP), and waits until none of its threads runs any more.
///
/// # Errors
/// If it goes on.
pub fn freeze(child: &Child) -> Result<()> {
    kill_process(pid_of(child), Signal::STOP).context("sending SIGSTOP")?;
    let deadline = Instant::now() + FREEZE_LIMIT;
    while threads_run(child.id())? {
        if Instant::now() >= deadline {
            bail!("a thread still runs {FREEZE_LIMIT:?} after SIGSTOP");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether a thread of process `id` runs, or could. One that waits for the disk does not count: it
/// stops before it does anything else.
fn threads_run(id: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        // The state follows the name, which may contain anything but ends with the last bracket.
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
        if !matches!(state, Some(Some('T' | 't' | 'D' | 'Z' | 'X'))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Asks `child` to read its files again (SIGHUP).
///
/// # Errors
/// If the signal cannot be sent.
pub fn hang_up(child: &Child) -> Result<()> {
    kill_process(pid_of(child), Signal::HUP).context("sending SIGHUP")
}

fn pid_of(child: &Child) -> Pid {
    let raw = i32::try_from(child.id()).expect("a process id fits i32");
    Pid::from_raw(raw).expect("a child's process id is not zero")
}

/// The last lines of `output`.
pub fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(OUTPUT_TAIL_LINES);
    lines[from..].join("\n")
}

/// The command as a person would type it.
fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&shortened(&argument.to_string_lossy()));
    }
    text
}

/// Long arguments (scripts, tokens) are cut: an error message is read by people.
fn shortened(argument: &str) -> String {
    const KEPT_CHARS: usize = 120;
    match argument.char_indices().nth(KEPT_CHARS) {
        Some((cut, _)) => format!("{}…", &argument[..cut]),
        None => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_of_a_failure_is_in_the_error() {
        let error = run(&mut shell("echo seen; exit 3"), Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("seen"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let started = Instant::now();
        let limit = Duration::from_millis(100);
        let error = run_any(&mut shell("sleep 60 & sleep 60; true"), limit).unwrap_err();
        assert!(error.to_string().contains("not finished"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
