//! Goals, and which figures miss them.

/// What a figure is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// It must not be smaller.
    AtLeast(f64),
    /// It must not be larger.
    AtMost(f64),
}

impl Goal {
    /// Whether `value` is good enough. NaN, where nothing was measured, is not.
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    /// How a table marks what misses.
    fn mark(self) -> &'static str {
        match self {
            Self::AtLeast(_) => "<goal",
            Self::AtMost(_) => ">goal",
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(formatter, "≥{least}"),
            Self::AtMost(most) => write!(formatter, "≤{most}"),
        }
    }
}

/// How every figure that has a goal compares with it.
#[derive(Debug, Default)]
pub struct Verdicts {
    judged: usize,
    missed: Vec<String>,
    short: Vec<String>,
}

impl Verdicts {
    /// A place in a table: the figure, its goal if it has one, and the mark if it misses.
    pub fn place(&mut self, name: &str, value: f64, shown: &str, goal: Option<Goal>) -> String {
        let Some(goal) = goal else {
            return shown.to_owned();
        };
        self.judged += 1;
        if goal.is_met(value) {
            return format!("{shown} {goal}");
        }
        let mark = goal.mark();
        self.missed
            .push(format!("{name}: {shown}, goal {goal} {mark}"));
        format!("{shown} {goal} {mark}")
    }

    /// Notes a row that ended before it had shown what it is for.
    pub fn short(&mut self, name: &str) {
        self.short.push(name.to_owned());
    }

    /// What misses, and how many that are; the last line says it all.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut list = |title: &str, names: &[String]| {
            if !names.is_empty() {
                lines.push(title.to_owned());
                lines.extend(names.iter().map(|name| format!("  {name}")));
            }
        };
        list("missed", &self.missed);
        list("too SHORT, their figures do not count", &self.short);
        lines.push(format!(
            "cargo ci bench: {} of {} figures MISS their goals",
            self.missed.len(),
            self.judged
        ));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_is_marked_and_counted() {
        let mut verdicts = Verdicts::default();
        let mut check = |value: f64, goal, expected: &str| {
            let shown = format!("{value:.1}");
            assert_eq!(verdicts.place("row", value, &shown, goal), expected);
        };
        check(1.0, None, "1.0");
        check(1.0, Some(Goal::AtLeast(1.0)), "1.0 ≥1");
        check(0.9, Some(Goal::AtLeast(0.95)), "0.9 ≥0.95 <goal");
        check(f64::NAN, Some(Goal::AtLeast(1.0)), "NaN ≥1 <goal");
        check(100.0, Some(Goal::AtMost(100.0)), "100.0 ≤100");
        check(100.1, Some(Goal::AtMost(100.0)), "100.1 ≤100 >goal");
        check(f64::NAN, Some(Goal::AtMost(1.0)), "NaN ≤1 >goal");
        assert_eq!((verdicts.judged, verdicts.missed.len()), (6, 4));
        verdicts.short("quick");
        let lines = verdicts.lines();
        assert_eq!(lines[0], "missed");
        assert_eq!(lines[1], "  row: 0.9, goal ≥0.95 <goal");
        assert!(lines.contains(&"  quick".to_owned()));
        let last = "cargo ci bench: 4 of 6 figures MISS their goals";
        assert_eq!(lines.last().map(String::as_str), Some(last));
    }
}
