//! Medians, ratios, the table that shows them, and what is below its goal.

use std::collections::BTreeMap;

use crate::rig::fio::median;

/// What a figure is held to; a ratio below `floor` is a defect, one below `goal` not yet good.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// The server whose figure is the measure.
    pub against: &'static str,
    /// At least this much of it.
    pub goal: f64,
    /// Never less than this.
    pub floor: f64,
}

/// mvps against a raw file.
pub const RAW_FILE: Goal = Goal {
    against: "qemu-nbd",
    goal: 1.0,
    floor: 0.6,
};

/// mvps against the plain SDK, which does the same work without a disk in front.
pub const PLAIN: Goal = Goal {
    against: "plain SDK",
    goal: 0.7,
    floor: 0.7,
};

/// How every figure that has a goal compares with it.
#[derive(Debug, Default)]
pub struct Verdicts {
    judged: usize,
    missed: Vec<String>,
    defects: usize,
}

impl Verdicts {
    /// Judges a ratio; returns the mark for its place in a table.
    pub fn ratio(&mut self, name: &str, ratio: f64, goal: Goal) -> &'static str {
        self.judged += 1;
        // NaN (nothing measured) misses too.
        if ratio >= goal.goal {
            return "";
        }
        let is_defect = ratio < goal.floor || ratio.is_nan();
        self.defects += usize::from(is_defect);
        let mark = if is_defect { " <FLOOR" } else { " <goal" };
        self.missed.push(format!(
            "{name}: {ratio:.2} of {}, goal {}{mark}",
            goal.against, goal.goal
        ));
        mark
    }

    /// Judges a figure that must not exceed `most`; returns its mark.
    pub fn at_most(&mut self, name: &str, value: f64, unit: &str, most: f64) -> &'static str {
        self.judged += 1;
        if value <= most {
            return "";
        }
        self.missed
            .push(format!("{name}: {value:.1} {unit}, goal {most} {unit}"));
        " >goal"
    }

    /// Prints what misses, and how many that are; the last line says it all.
    pub fn print(&self) {
        println!("\nbelow their goals");
        for missed in &self.missed {
            println!("  {missed}");
        }
        let (judged, missed) = (self.judged, self.missed.len());
        println!(
            "cargo ci bench: {missed} of {judged} figures MISS their goals, {} of them below the \
             floor",
            self.defects
        );
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

    /// Prints medians and the first server's ratio to each other one, judged by `goal`.
    pub fn print(&self, title: &str, goal: Option<Goal>, verdicts: &mut Verdicts) {
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
            let of = |server: &String| runs.get(server).map_or(f64::NAN, |values| median(values));
            print!("  {name:<22} {unit:<6}");
            for server in &self.servers {
                print!(" {:>12.1}", of(server));
            }
            for other in others {
                let ratio = of(first) / of(other);
                let mark = match goal.filter(|goal| goal.against == other) {
                    Some(goal) => verdicts.ratio(&format!("{title}: {name}"), ratio, goal),
                    None => "",
                };
                print!(" {:>18}", format!("{ratio:.2}{mark}"));
            }
            println!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_below_their_goals_are_marked_and_counted() {
        let mut verdicts = Verdicts::default();
        assert_eq!(verdicts.ratio("a", 1.0, RAW_FILE), "");
        assert_eq!(verdicts.ratio("b", 0.7, RAW_FILE), " <goal");
        assert_eq!(verdicts.ratio("c", 0.5, RAW_FILE), " <FLOOR");
        assert_eq!(verdicts.ratio("d", f64::NAN, PLAIN), " <FLOOR");
        assert_eq!(verdicts.at_most("e", 50.0, "ms", 50.0), "");
        assert_eq!(verdicts.at_most("f", 50.1, "ms", 50.0), " >goal");
        assert_eq!((verdicts.judged, verdicts.missed.len()), (6, 4));
        assert_eq!(verdicts.defects, 2);
    }
}
