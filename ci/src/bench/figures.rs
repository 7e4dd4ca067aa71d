//! Medians, ratios, and the table that shows them.

use std::collections::BTreeMap;

/// mvps should be at least this fast, relative to the raw file.
const GOAL: f64 = 1.0;

/// Below this a row is a defect.
const FLOOR: f64 = 0.6;

/// The middle one of `values`; the mean of the middle two of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// What each run of each row measured on each server.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
    servers: Vec<String>,
}

#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    runs: BTreeMap<String, Vec<f64>>,
}

impl Table {
    /// Notes one run of `row` on `server`.
    pub fn note(&mut self, row: &str, unit: &'static str, server: &str, value: f64) {
        if !self.servers.iter().any(|known| known == server) {
            self.servers.push(server.to_owned());
        }
        let known = self.rows.iter().position(|known| known.name == row);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row {
                name: row.to_owned(),
                unit,
                runs: BTreeMap::new(),
            });
            self.rows.len() - 1
        });
        let runs = &mut self.rows[at].runs;
        runs.entry(server.to_owned()).or_default().push(value);
    }

    /// Prints medians and the first server's ratio to each other one.
    pub fn print(&self, title: &str) {
        print!("\n{title}\n  {:<22} {:<6}", "row", "unit");
        for server in &self.servers {
            print!(" {server:>12}");
        }
        let Some((first, others)) = self.servers.split_first() else {
            return println!();
        };
        for other in others {
            print!(" {:>18}", format!("{first}/{other}"));
        }
        println!();
        for Row { name, unit, runs } in &self.rows {
            let of = |server: &String| runs.get(server).map_or(0.0, |values| median(values));
            print!("  {name:<22} {unit:<6}");
            for server in &self.servers {
                print!(" {:>12.1}", of(server));
            }
            for other in others {
                let ratio = of(first) / of(other);
                print!(
                    " {:>18}",
                    format!("{ratio:.2}{}", mark(ratio, first, other))
                );
            }
            println!();
        }
    }
}

/// The raw file is what mvps is held to.
fn mark(ratio: f64, first: &str, other: &str) -> &'static str {
    let held_to = first == "mvps" && other == "qemu-nbd";
    match ratio {
        _ if !held_to || ratio >= GOAL => "",
        _ if ratio >= FLOOR => " <goal",
        _ => " <FLOOR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "exact halves")]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn rows_below_the_goal_are_marked() {
        assert_eq!(mark(1.0, "mvps", "qemu-nbd"), "");
        assert_eq!(mark(0.7, "mvps", "qemu-nbd"), " <goal");
        assert_eq!(mark(0.5, "mvps", "qemu-nbd"), " <FLOOR");
        assert_eq!(mark(0.5, "mvps", "nbdkit"), "");
    }
}
