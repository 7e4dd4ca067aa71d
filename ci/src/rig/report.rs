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
    seen: Result<String, String>,
    elapsed: Duration,
}

impl Report {
    /// Runs one check and notes its outcome; later checks run whatever it was.
    pub fn check(&mut self, area: &str, name: &str, body: impl FnOnce() -> Result<String>) -> bool {
        let started = Instant::now();
        eprint!("{area:<12} {name:<34} ");
        let seen = body().map_err(|error| format!("{error:#}"));
        let elapsed = started.elapsed();
        match &seen {
            Ok(detail) => eprintln!("ok     {:6.1}s  {detail}", elapsed.as_secs_f64()),
            Err(reason) => eprintln!("FAILED {:6.1}s\n{reason}", elapsed.as_secs_f64()),
        }
        let passed = seen.is_ok();
        self.rows.push(Row {
            area: area.to_owned(),
            name: name.to_owned(),
            seen,
            elapsed,
        });
        passed
    }

    /// Prints the table.
    ///
    /// # Errors
    /// If any check failed, or none ran.
    pub fn finish(self, title: &str) -> Result<()> {
        println!("\n{title}");
        let mut failed = 0;
        for row in &self.rows {
            let (verdict, detail) = match &row.seen {
                Ok(detail) => ("ok", detail.as_str()),
                Err(reason) => {
                    failed += 1;
                    ("FAILED", reason.lines().next().unwrap_or(""))
                }
            };
            let seconds = row.elapsed.as_secs_f64();
            println!(
                "  {:<12} {:<34} {verdict:<6} {seconds:6.1}s  {detail}",
                row.area, row.name
            );
        }
        let total = self.rows.len();
        println!("{title}: {} of {total} checks passed", total - failed);
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
        assert!(good.finish("good").is_ok());
        let mut bad = Report::default();
        bad.check("a", "b", || Ok(String::new()));
        assert!(!bad.check("a", "c", || bail!("no")));
        assert!(bad.finish("bad").is_err());
    }
}
