//! A table of checks: each row passed or failed, with what was seen; a failure anywhere is an
//! error.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// One run's checks, in the order in which they ran.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    area: String,
    name: String,
    seen: Seen,
    elapsed: Duration,
}

/// What came of a check.
#[derive(Debug)]
enum Seen {
    Passed(String),
    Failed(String),
    NotRun(String),
}

impl Seen {
    fn verdict(&self) -> &'static str {
        match self {
            Self::Passed(_) => "ok",
            Self::Failed(_) => "FAILED",
            Self::NotRun(_) => "not run",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Passed(text) | Self::NotRun(text) => text,
            Self::Failed(reason) => reason.lines().next().unwrap_or(""),
        }
    }
}

impl Report {
    /// Runs one check and notes its outcome; later checks run whatever it was.
    pub fn check(&mut self, area: &str, name: &str, body: impl FnOnce() -> Result<String>) -> bool {
        let started = Instant::now();
        eprint!("{area:<12} {name:<34} ");
        let (passed, seen) = match body() {
            Ok(detail) => (true, Seen::Passed(detail)),
            Err(error) => (false, Seen::Failed(format!("{error:#}"))),
        };
        let elapsed = started.elapsed();
        match &seen {
            Seen::Failed(reason) => eprintln!("FAILED {:6.1}s\n{reason}", elapsed.as_secs_f64()),
            seen => eprintln!("ok     {:6.1}s  {}", elapsed.as_secs_f64(), seen.detail()),
        }
        self.rows.push(Row {
            area: area.to_owned(),
            name: name.to_owned(),
            seen,
            elapsed,
        });
        passed
    }

    /// Notes a check that is not run, and why.
    pub fn not_run(&mut self, area: &str, name: &str, reason: &str) {
        eprintln!("{area:<12} {name:<34} not run: {reason}");
        self.rows.push(Row {
            area: area.to_owned(),
            name: name.to_owned(),
            seen: Seen::NotRun(reason.to_owned()),
            elapsed: Duration::ZERO,
        });
    }

    /// Prints the table.
    ///
    /// # Errors
    /// If any check failed, or none ran.
    pub fn finish(self, title: &str) -> Result<()> {
        println!("\n{title}");
        let (mut failed, mut not_run) = (0, 0);
        for row in &self.rows {
            match row.seen {
                Seen::Passed(_) => {}
                Seen::Failed(_) => failed += 1,
                Seen::NotRun(_) => not_run += 1,
            }
            let (verdict, detail) = (row.seen.verdict(), row.seen.detail());
            let seconds = row.elapsed.as_secs_f64();
            println!(
                "  {:<12} {:<34} {verdict:<7} {seconds:6.1}s  {detail}",
                row.area, row.name
            );
        }
        let total = self.rows.len() - not_run;
        let left_out = match not_run {
            0 => String::new(),
            _ => format!("; {not_run} not run"),
        };
        println!(
            "{title}: {} of {total} checks passed{left_out}",
            total - failed
        );
        if failed > 0 || total == 0 {
            bail!("{title}: {failed} of {total} checks failed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_the_run_and_an_empty_run_fails_too() {
        assert!(Report::default().finish("empty").is_err());
        let mut good = Report::default();
        assert!(good.check("a", "b", || Ok(String::new())));
        good.not_run("a", "d", "because");
        assert!(good.finish("good").is_ok());
        let mut idle = Report::default();
        idle.not_run("a", "b", "because");
        assert!(idle.finish("idle").is_err());
        let mut bad = Report::default();
        bad.check("a", "b", || Ok(String::new()));
        assert!(!bad.check("a", "c", || bail!("no")));
        assert!(bad.finish("bad").is_err());
    }
}
