//! Everything that was measured: printed as it comes, listed at the end, kept for programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use serde_json::{Value, json};

use super::table::Table;
use super::verdict::{Goal, Verdicts};
use crate::rig::host::Host;

/// Above every table of a run that measures nothing.
const SMOKE: &str = "SMOKE: shows that the bench runs; these figures are NOT measurements";

/// The results of one run of the bench.
pub struct Results {
    is_smoke: bool,
    verdicts: Verdicts,
    tables: Vec<Value>,
    facts: Vec<Value>,
    failed: Vec<String>,
}

impl Results {
    /// None yet.
    pub fn new(is_smoke: bool) -> Self {
        Self {
            is_smoke,
            verdicts: Verdicts::default(),
            tables: Vec::new(),
            facts: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Prints what stands above a table.
    pub fn title(&self, title: &str) {
        println!("\n{title}");
        if self.is_smoke {
            println!("{SMOKE}");
        }
    }

    /// Prints a table and keeps it; nothing if no row of it was measured.
    pub fn table(&mut self, table: &Table) {
        if table.is_empty() {
            return;
        }
        self.title(table.title());
        for line in table.lines(&mut self.verdicts) {
            println!("{line}");
        }
        self.tables.push(table.json());
    }

    /// Prints a figure that stands by itself, and keeps it.
    pub fn fact(&mut self, name: &str, value: f64, unit: &str, goal: Option<Goal>) {
        let shown = format!("{value:.2}");
        let place = self.verdicts.place(name, value, &shown, goal);
        println!("  {name:<52} {unit:>6}  {place}");
        let fact = json!({ "name": name, "value": value, "unit": unit });
        self.facts.push(fact);
    }

    /// Prints that a part did not run to its end, and why.
    pub fn failed(&mut self, part: &str, error: &Error) {
        println!("\n{part}: FAILED: {error:#}");
        self.failed.push(format!("{part}: {error:#}"));
    }

    /// Writes everything so far to `file`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, host: &Host, server: &str, file: Option<&Path>) -> Result<()> {
        let Some(file) = file else {
            return Ok(());
        };
        let all = json!({
            "is_smoke": self.is_smoke,
            "machine": host.json(),
            "mvps": server,
            "tables": self.tables,
            "facts": self.facts,
            "goals": self.verdicts.lines(),
            "failed": self.failed,
        });
        fs::write(file, format!("{all:#}\n")).with_context(|| format!("{}", file.display()))
    }

    /// Prints what misses its goal.
    ///
    /// # Errors
    /// If a part failed, or nothing was measured; never because of a figure.
    pub fn finish(self) -> Result<()> {
        let is_empty = self.tables.is_empty() && self.facts.is_empty();
        if !is_empty {
            self.title("goals");
            for line in self.verdicts.lines() {
                println!("{line}");
            }
        }
        ensure!(
            self.failed.is_empty(),
            "parts of the bench FAILED:\n{}",
            self.failed.join("\n")
        );
        ensure!(
            !is_empty,
            "nothing was measured: no row has that in its name"
        );
        Ok(())
    }
}
