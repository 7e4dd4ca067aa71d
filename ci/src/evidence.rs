//! `cargo ci evidence`: everything that a capability must show, in one run, with its figures.
//!
//! The summary says what each command did and no more: a command that judges passed or failed, one
//! that measures only ran, and one that was shortened says so.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::rig::command::run_any;

/// A capability of mvps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Capability {
    /// The engine serves a disk.
    Engine,
    /// Space is given back, history is kept.
    History,
}

/// Which commands run, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Run every command for a short time only. Proves that they run; shows nothing.
    #[arg(long)]
    short: bool,
    /// Leave out this command; the summary says so. May be given several times.
    #[arg(long, value_name = "COMMAND")]
    leave_out: Vec<String>,
}

/// How long one command may take: `bench` measures for hours.
const COMMAND_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// A longer table is not repeated in the summary.
const TABLE_LINES_MAX: usize = 12;

/// One command of `cargo ci`.
struct Step {
    command: &'static str,
    /// What turns it into evidence.
    arguments: &'static [&'static str],
    /// What makes it short; empty if it is short by itself.
    short: &'static [&'static str],
    /// Whether it fails when the product does not do what it must.
    judges: bool,
}

/// The commands that show the engine, on the release build.
const ENGINE: &[Step] = &[
    Step {
        command: "interop",
        arguments: RELEASE,
        short: &[],
        judges: true,
    },
    Step {
        command: "filesystem",
        arguments: RELEASE,
        short: &[],
        judges: true,
    },
    Step {
        command: "kill",
        arguments: &["--profile", "release", "--store", "local"],
        short: &["--rounds", "2"],
        judges: true,
    },
    Step {
        command: "kill",
        arguments: &["--profile", "release", "--store", "s3"],
        short: &["--rounds", "2"],
        judges: true,
    },
    Step {
        command: "outage",
        arguments: RELEASE,
        short: &["--seconds", "20"],
        judges: true,
    },
    Step {
        command: "idle",
        arguments: RELEASE,
        short: &["--seconds", "5", "--segments", "20"],
        judges: true,
    },
    Step {
        command: "bench",
        arguments: &[],
        short: &[
            "--smoke",
            "--region",
            "64m",
            "--rounds",
            "1",
            "--seconds",
            "1",
            "--sustained-seconds",
            "10",
        ],
        judges: false,
    },
];

/// The commands that show space and history. Each prints its figures beside their limits.
const HISTORY: &[Step] = &[
    Step {
        command: "space",
        arguments: RELEASE,
        short: &[
            "--image-size",
            "256",
            "--rounds",
            "3",
            "--checkpoint-bytes",
            "16MiB",
        ],
        judges: true,
    },
    Step {
        command: "foreground",
        arguments: RELEASE,
        short: &["--image-size", "512", "--seconds", "10", "--rounds", "1"],
        judges: true,
    },
    Step {
        command: "bigimage",
        arguments: RELEASE,
        short: &["--size-gib", "32", "--reads", "2000", "--clones", "10"],
        judges: true,
    },
    Step {
        command: "gc-crashes",
        arguments: RELEASE,
        short: &["--minutes", "1"],
        judges: true,
    },
    Step {
        command: "gc",
        arguments: RELEASE,
        short: &[],
        judges: true,
    },
    Step {
        command: "pointintime",
        arguments: RELEASE,
        short: &[],
        judges: true,
    },
];

/// As users run it.
const RELEASE: &[&str] = &["--profile", "release"];

impl Step {
    /// What the summary may say of it.
    fn verdict(&self, succeeded: bool, is_short: bool) -> &'static str {
        match (succeeded, self.judges, is_short && !self.short.is_empty()) {
            (false, _, _) => "FAILED",
            (true, true, false) => "passed",
            (true, true, true) => "passed, SHORTENED",
            (true, false, false) => "measured",
            (true, false, true) => "measured, SHORTENED",
        }
    }
}

/// Runs every command and prints what each printed, then what became of it.
///
/// # Errors
/// If a command fails; the others run all the same.
pub fn run(capability: Capability, options: &Options) -> Result<()> {
    let steps = match capability {
        Capability::Engine => ENGINE,
        Capability::History => HISTORY,
    };
    for command in &options.leave_out {
        ensure!(
            steps.iter().any(|step| step.command == command),
            "no command {command} in this evidence"
        );
    }
    let (mut summary, mut failed) = (Vec::new(), 0);
    for step in steps {
        let mut arguments = vec![step.command];
        arguments.extend(step.arguments);
        if options.short {
            arguments.extend(step.short);
        }
        let name = format!("cargo ci {}", arguments.join(" "));
        if options
            .leave_out
            .iter()
            .any(|command| command == step.command)
        {
            summary.push(format!("  {:<20} {:>8}  {name}", "NOT RUN", ""));
            continue;
        }
        println!("\n### {name}");
        let started = Instant::now();
        let (succeeded, rows) = run_command(&arguments)?;
        failed += usize::from(!succeeded);
        let verdict = step.verdict(succeeded, options.short);
        let seconds = started.elapsed().as_secs_f64();
        summary.push(format!(
            "  {verdict:<20} {seconds:>6.0} s  {name}\n    {rows}"
        ));
    }
    println!("\n### summary");
    for line in &summary {
        println!("{line}");
    }
    if options.short {
        println!("shortened: this shows that the commands run, not what they are to show");
    }
    if failed > 0 {
        bail!("{failed} of {} commands failed", steps.len());
    }
    Ok(())
}

/// Runs one command and prints what it printed; whether it succeeded, and the table it ended with.
fn run_command(arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    match run_any(command.args(arguments), COMMAND_LIMIT) {
        Ok(finished) => {
            print!("{}", finished.stdout);
            if !finished.status.success() {
                print!("{}", finished.stderr);
            }
            Ok((finished.status.success(), table_of(&finished.stdout)))
        }
        Err(error) => {
            println!("{error:#}");
            Ok((false, String::new()))
        }
    }
}

/// What follows the last empty line, or the last line if that is long ago.
fn table_of(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let last = lines.len().saturating_sub(1);
    let from = lines.iter().rposition(|line| line.is_empty());
    let from = from.map_or(last, |empty| empty + 1);
    let from = match last.saturating_sub(from) < TABLE_LINES_MAX {
        true => from,
        false => last,
    };
    lines[from.min(lines.len())..].join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_follows_the_last_empty_line() {
        assert_eq!(table_of(""), "");
        assert_eq!(table_of("a\nb\n"), "b");
        assert_eq!(table_of("a\n\nb\nc\n"), "b\n    c");
        assert_eq!(table_of(&format!("a\n\n{}end", "b\n".repeat(99))), "end");
    }

    #[test]
    fn only_what_was_judged_in_full_has_passed() {
        let step = |judges, short| Step {
            command: "command",
            arguments: &[],
            short,
            judges,
        };
        let cases: &[(bool, &'static [&'static str], bool, bool, &str)] = &[
            (true, &["-s"], true, false, "passed"),
            (true, &["-s"], true, true, "passed, SHORTENED"),
            (true, &[], true, true, "passed"),
            (false, &["-s"], true, false, "measured"),
            (false, &["-s"], true, true, "measured, SHORTENED"),
            (true, &["-s"], false, true, "FAILED"),
            (false, &[], false, false, "FAILED"),
        ];
        for &(judges, short, succeeded, is_short, expected) in cases {
            assert_eq!(step(judges, short).verdict(succeeded, is_short), expected);
        }
    }
}
