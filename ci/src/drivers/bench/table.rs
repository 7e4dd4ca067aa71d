//! Every run of every row of a table, and how it is shown: medians of the runs, what mvps is
//! beside the other contestant, and the goals.

use serde_json::{Value, json};

use super::figures::{Run, Unit};
use super::goals::Goals;
use super::options::GENERATIONS_MIN;
use super::verdict::{Goal, Verdicts};
use crate::rig::fio::median;

/// Shown where nothing was measured.
const NOTHING: &str = "-";

/// One row's runs.
#[derive(Debug)]
struct RowRuns {
    name: String,
    unit: Unit,
    goals: Goals,
    /// Whether it is to last until [`GENERATIONS_MIN`] generations have passed.
    must_last: bool,
    mvps: Vec<Run>,
    other: Vec<Run>,
}

/// A table.
#[derive(Debug)]
pub struct Table {
    title: String,
    other: &'static str,
    rows: Vec<RowRuns>,
}

/// Whose run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is measured.
    Mvps,
    /// What it is measured against.
    Other,
}

impl Table {
    /// A table of mvps beside `other`.
    pub fn new(title: String, other: &'static str) -> Self {
        Self {
            title,
            other,
            rows: Vec::new(),
        }
    }

    /// What stands above it.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Notes that `name` is a row; it stands where it was noted first.
    pub fn row(&mut self, name: &str, unit: Unit, goals: Goals, must_last: bool) {
        if self.rows.iter().all(|known| known.name != name) {
            self.rows.push(RowRuns {
                name: name.to_owned(),
                unit,
                goals,
                must_last,
                mvps: Vec::new(),
                other: Vec::new(),
            });
        }
    }

    /// Notes a run of a row.
    pub fn note(&mut self, name: &str, side: Side, run: Run) {
        let row = self.rows.iter_mut().find(|row| row.name == name);
        let row = row.expect("a run is of a row that was noted");
        match side {
            Side::Mvps => row.mvps.push(run),
            Side::Other => row.other.push(run),
        }
    }

    /// Whether there is anything to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Resident memory of mvps at its highest, over all rows.
    pub fn highest_memory_bytes(&self) -> Option<u64> {
        let runs = self.rows.iter().flat_map(|row| &row.mvps);
        runs.filter_map(|run| run.memory_bytes).max()
    }

    /// As people read it: columns in which nothing was measured are left out.
    pub fn lines(&self, verdicts: &mut Verdicts) -> Vec<String> {
        let mut lines = vec![vec![
            "row".to_owned(),
            "unit".to_owned(),
            "mvps".to_owned(),
            self.other.to_owned(),
            "ratio".to_owned(),
            "p99 ms".to_owned(),
            self.other.to_owned(),
            "RSS MiB".to_owned(),
            "written/byte".to_owned(),
            "device/byte".to_owned(),
            self.other.to_owned(),
            "versions".to_owned(),
        ]];
        lines.extend(self.rows.iter().map(|row| row.places(verdicts)));
        let shown: Vec<usize> = (0..lines[0].len())
            .filter(|at| lines[1..].iter().any(|line| line[*at] != NOTHING))
            .collect();
        let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max();
        let widths: Vec<usize> = shown.iter().map(|at| width(*at).unwrap_or(0)).collect();
        let line = |places: &Vec<String>| {
            let mut text = String::new();
            for (at, width) in shown.iter().zip(&widths) {
                let place = &places[*at];
                match at {
                    0 => text.push_str(&format!("  {place:<width$}")),
                    _ => text.push_str(&format!("  {place:>width$}")),
                }
            }
            text
        };
        lines.iter().map(line).collect()
    }

    /// For programs: every run.
    pub fn json(&self) -> Value {
        let runs = |runs: &[Run]| runs.iter().map(Run::json).collect::<Vec<_>>();
        let rows = self.rows.iter().map(|row| {
            json!({
                "name": row.name,
                "unit": row.unit.shown(),
                "mvps": runs(&row.mvps),
                (self.other): runs(&row.other),
                "ratio": row.ratio(),
            })
        });
        json!({ "title": self.title, "rows": rows.collect::<Vec<_>>() })
    }
}

impl RowRuns {
    /// The median of mvps divided by the median of the other; NaN if one of them did not run.
    fn ratio(&self) -> f64 {
        rate(&self.mvps) / rate(&self.other)
    }

    fn places(&self, verdicts: &mut Verdicts) -> Vec<String> {
        let (name, goals) = (&self.name, self.goals);
        let mut place =
            |what: &str, value: Option<f64>, decimals: usize, goal: Option<Goal>| match value {
                None if goal.is_none() => NOTHING.to_owned(),
                value => {
                    let value = value.unwrap_or(f64::NAN);
                    let shown = format!("{value:.decimals$}");
                    verdicts.place(&format!("{name} {what}"), value, &shown, goal)
                }
            };
        let p99 = |run: &Run| run.p99_ms;
        let written = |run: &Run| run.local_bytes_per_byte;
        let device = |run: &Run| run.device_bytes_per_byte;
        let memory = self.mvps.iter().filter_map(|run| run.memory_bytes).max();
        let mut places = vec![
            name.clone(),
            self.unit.shown().to_owned(),
            place("rate", Some(rate(&self.mvps)), 1, goals.rate),
            place("", Some(rate(&self.other)), 1, None),
            place("ratio", Some(self.ratio()), 2, goals.ratio),
            place("p99 ms", median_of(&self.mvps, p99), 2, goals.p99_ms),
            place("", median_of(&self.other, p99), 2, None),
            place("", memory.map(|bytes| (bytes >> 20) as f64), 0, None),
            place(
                "written/byte",
                median_of(&self.mvps, written),
                2,
                goals.local_bytes_per_byte,
            ),
            // The other's `written` is not shown: it overwrites in place (`rig::process`).
            place("", median_of(&self.mvps, device), 2, None),
            place("", median_of(&self.other, device), 2, None),
        ];
        places.push(self.versions(verdicts));
        places
    }

    /// The fewest versions that a run published, marked if it should have lasted longer.
    fn versions(&self, verdicts: &mut Verdicts) -> String {
        match self.mvps.iter().filter_map(|run| run.versions).min() {
            None => NOTHING.to_owned(),
            Some(versions) if self.must_last && versions < GENERATIONS_MIN => {
                verdicts.short(&self.name);
                format!("{versions} SHORT")
            }
            Some(versions) => versions.to_string(),
        }
    }
}

fn rate(runs: &[Run]) -> f64 {
    median_of(runs, |run| Some(run.rate)).unwrap_or(f64::NAN)
}

/// The median of what was measured.
fn median_of(runs: &[Run], figure: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = runs.iter().filter_map(figure).collect();
    (!values.is_empty()).then(|| median(&values))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOALS: Goals = Goals {
        ratio: Some(Goal::AtLeast(0.9)),
        rate: None,
        p99_ms: Some(Goal::AtMost(100.0)),
        local_bytes_per_byte: Some(Goal::AtMost(1.1)),
    };

    fn run(rate: f64, p99_ms: f64, written: f64, versions: u64) -> Run {
        Run {
            rate,
            p99_ms: Some(p99_ms),
            memory_bytes: Some(300 << 20),
            local_bytes_per_byte: Some(written),
            device_bytes_per_byte: Some(1.25),
            versions: Some(versions),
            ..Run::default()
        }
    }

    fn raw(rate: f64) -> Run {
        Run {
            p99_ms: Some(1.0),
            device_bytes_per_byte: Some(1.0),
            ..Run::of_rate(rate)
        }
    }

    #[test]
    fn medians_goals_and_marks_are_shown() {
        let mut table = Table::new("a store".to_owned(), "raw");
        table.row("s/write", Unit::Mebibytes, GOALS, true);
        table.row("s/read", Unit::Requests, Goals::default(), false);
        for (rate, p99_ms, written, versions) in [
            (100.0, 50.0, 1.0, 9),
            (300.0, 250.0, 1.5, 2),
            (90.0, 150.0, 1.2, 4),
        ] {
            table.note("s/write", Side::Mvps, run(rate, p99_ms, written, versions));
            table.note("s/write", Side::Other, raw(200.0));
        }
        table.note("s/read", Side::Mvps, Run::of_rate(10.0));
        table.note("s/read", Side::Other, Run::of_rate(5.0));
        let mut verdicts = Verdicts::default();
        let lines = table.lines(&mut verdicts).join("\n");
        let expected = "  \
  row       unit   mvps    raw            ratio             p99 ms   raw  RSS MiB     written/byte  device/byte   raw  versions
  s/write  MiB/s  100.0  200.0  0.50 ≥0.9 <goal  150.00 ≤100 >goal  1.00      300  1.20 ≤1.1 >goal         1.25  1.00   2 SHORT
  s/read     1/s   10.0    5.0             2.00                  -     -        -                -            -     -         -";
        assert_eq!(lines, expected);
        assert_eq!(verdicts.lines().len(), 7);
        assert_eq!(table.highest_memory_bytes(), Some(300 << 20));
        assert_eq!(table.json()["rows"][0]["raw"][2]["rate"], 200.0);
        assert_eq!(table.json()["rows"][0]["ratio"], 0.5);
    }

    #[test]
    fn what_nobody_measured_is_left_out_and_a_goal_without_a_figure_is_missed() {
        let mut table = Table::new("plain".to_owned(), "plain SDK");
        table.row("upload", Unit::Mebibytes, super::super::goals::PLAIN, false);
        table.note("upload", Side::Mvps, Run::of_rate(80.0));
        table.note("upload", Side::Other, Run::of_rate(100.0));
        let lines = table.lines(&mut Verdicts::default());
        assert_eq!(lines[0], "  row      unit  mvps  plain SDK      ratio");
        assert_eq!(lines[1], "  upload  MiB/s  80.0      100.0  0.80 ≥0.7");
        let mut table = Table::new("half".to_owned(), "raw");
        table.row("write", Unit::Mebibytes, GOALS, false);
        table.note("write", Side::Mvps, Run::of_rate(80.0));
        let lines = table.lines(&mut Verdicts::default());
        assert!(lines[1].contains("NaN ≥0.9 <goal"), "{}", lines[1]);
        assert!(lines[1].contains("NaN ≤100 >goal"), "{}", lines[1]);
    }
}
