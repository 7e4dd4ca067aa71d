//! A case: one run as a small text, which shrinking writes and `cargo test` replays.
//!
//! ```text
//! # anything
//! seed 17                      the streams of choices, and every part of the plan that is not set
//! variant ack before sync      the known-bad engine that it catches; if none, a bug that was fixed
//! expects oracle 1 (flushed)   what the variant violates
//! set clients 1                a number of the plan
//! only operations 3,7-9        all other choices of the kind are drawn and then not carried out
//! skip events 0-3,5            neither are these
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::journal::Choice;
use crate::plan::{Plan, Second};

/// Numbers of choices.
pub type Numbers = BTreeSet<u64>;

/// A run of a seed with some numbers of its plan set and some choices left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Case {
    /// What it shows, for people.
    pub remarks: Vec<String>,
    /// The seed.
    pub seed: u64,
    /// The variant of the engine.
    pub variant: Option<String>,
    /// What the variant violates.
    pub expects: Option<String>,
    /// Numbers of the plan, by the names of [`KNOBS`].
    pub settings: BTreeMap<String, u64>,
    /// What alone happens, of kinds of choices that are listed.
    pub only: BTreeMap<Choice, Numbers>,
    /// What does not happen.
    pub skips: BTreeMap<Choice, Numbers>,
}

/// A part of a plan that a case sets as a number.
trait Knob {
    fn value(&self) -> u64;
    fn turn(&mut self, value: u64);
}

impl Knob for u64 {
    fn value(&self) -> u64 {
        *self
    }

    fn turn(&mut self, value: u64) {
        *self = value;
    }
}

impl Knob for bool {
    fn value(&self) -> u64 {
        u64::from(*self)
    }

    fn turn(&mut self, value: u64) {
        *self = value > 0;
    }
}

impl Knob for Option<u64> {
    fn value(&self) -> u64 {
        self.unwrap_or(0)
    }

    fn turn(&mut self, value: u64) {
        *self = (value > 0).then_some(value);
    }
}

/// Whether there is one.
impl Knob for Second {
    fn value(&self) -> u64 {
        u64::from(*self != Self::None)
    }

    fn turn(&mut self, value: u64) {
        if value == 0 {
            *self = Self::None;
        }
    }
}

/// In milliseconds.
impl Knob for Duration {
    fn value(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }

    fn turn(&mut self, value: u64) {
        *self = Self::from_millis(value);
    }
}

macro_rules! knobs {
    ($($name:literal $least:literal $($field:ident).+;)*) => {
        /// Numbers of a plan that a case sets, and the least that each can be.
        pub const KNOBS: &[(&str, u64)] = &[$(($name, $least)),*];

        fn knob<'a>(plan: &'a mut Plan, name: &str) -> Option<&'a mut dyn Knob> {
            match name {
                $($name => Some(&mut plan.$($field).+),)*
                _ => None,
            }
        }
    };
}

// The names are those of cases that are checked in, so they stay when a field is renamed.
knobs! {
    "history.archivists" 0 history.history_operators;
    "history.readers" 0 history.readers;
    "history.twins" 0 history.twins;
    "history.copies" 0 history.copies;
    "history.guests" 0 history.clone_visitors;
    "history.on_server" 0 history.on_server;
    "history.deletes_main" 0 history.deletes_main;
    "history.second" 0 history.second;
    "encrypted" 0 encrypted;
    "clients" 1 clients;
    "rounds" 1 rounds;
    "write_pages_max" 1 write_pages_max;
    "durable" 0 durable;
    "object_store" 0 object_store;
    "drift_ppm" 0 drift_ppm;
    "over_nbd" 0 over_nbd;
    "grows" 0 grows;
    "collectors" 0 collectors;
    "abrupt" 0 abrupt;
    "hostile" 0 hostile;
    "cuts" 0 cuts;
    "leaving" 0 leaving;
    "bandwidth" 0 profile.bandwidth;
    "think_max_ms" 1 think_max;
    "linger_max_ms" 0 linger_max;
    "disk_max_ms" 1 disk_max;
    "operations.write" 1 operations.write;
    "operations.unaligned" 0 operations.unaligned;
    "operations.read" 0 operations.read;
    "operations.trim" 0 operations.trim;
    "operations.zero" 0 operations.zero;
    "operations.flush" 0 operations.flush;
    "operations.transaction" 0 operations.transaction;
    "operations.checkpoint" 0 operations.checkpoint;
    "operations.revoke" 0 operations.revoke;
    "store.refused" 0 store.refused;
    "store.reply_lost" 0 store.reply_lost;
    "store.late" 0 store.late;
    "store.twice" 0 store.twice;
    "store.stalled" 0 store.stalled;
    "store.slow_down" 0 store.slow_down;
    "store.truncated" 0 store.truncated;
    "store.bit_flip" 0 store.bit_flip;
    "store.conflict" 0 store.conflict;
    "store.slow" 0 store.slow;
    "store.slow_reads" 0 store.slow_reads;
    "store.body_stalled" 0 store.body_stalled;
    "store.wrong_object" 0 store.wrong_object;
    "store.partial_delete" 0 store.partial_delete;
    "store.completion_fails" 0 store.completion_fails;
    "events.kill" 0 events.kill;
    "events.power_cut" 0 events.power_cut;
    "events.restart" 0 events.restart;
    "events.pause" 0 events.pause;
    "events.takeover" 0 events.takeover;
    "events.lose_buffer" 0 events.lose_buffer;
    "events.roll_back" 0 events.roll_back;
    "events.adopt" 0 events.adopt;
    "events.outage" 0 events.outage;
    "events.cut_off" 0 events.cut_off;
    "events.clock_jump" 0 events.clock_jump;
    "events.buffer_fault" 0 events.buffer_fault;
    "events.intruder" 0 events.intruder;
    "events.trip" 0 events.trip;
    "events.rot" 0 events.rot;
}

impl Case {
    /// The whole run of a seed, with every number that a case can set.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut plan = Plan::of(seed);
        let mut value = |name: &str| knob(&mut plan, name).expect("it is in the list").value();
        let settings = KNOBS
            .iter()
            .map(|(name, _)| ((*name).to_owned(), value(name)));
        Self {
            seed,
            settings: settings.collect(),
            ..Self::default()
        }
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::of(self.seed);
        for (name, value) in &self.settings {
            let knob = knob(&mut plan, name).expect("parsing knows the names");
            if knob.value() != *value {
                knob.turn(*value);
            }
        }
        plan
    }

    /// Reads what [`Case`] shows.
    ///
    /// # Errors
    /// Names the line that it does not understand.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut case = Self::default();
        for line in text.lines().map(str::trim) {
            case.read(line)
                .ok_or_else(|| format!("not a line of a case: {line:?}"))?;
        }
        Ok(case)
    }

    fn read(&mut self, line: &str) -> Option<()> {
        if let Some(remark) = line.strip_prefix('#') {
            self.remarks.push(remark.trim().to_owned());
            return Some(());
        }
        if line.is_empty() {
            return Some(());
        }
        let (word, rest) = line.split_once(' ')?;
        match word {
            "seed" => self.seed = rest.parse().ok()?,
            "variant" => self.variant = Some(rest.to_owned()),
            "expects" => self.expects = Some(rest.to_owned()),
            "set" => {
                let (name, value) = rest.split_once(' ')?;
                KNOBS.iter().find(|(known, _)| *known == name)?;
                self.settings.insert(name.to_owned(), value.parse().ok()?);
            }
            "only" | "skip" => {
                let (name, numbers) = rest.split_once(' ')?;
                let choice = Choice::ALL.into_iter().find(|it| it.name() == name)?;
                let listed = if word == "only" {
                    &mut self.only
                } else {
                    &mut self.skips
                };
                listed.insert(choice, parse_numbers(numbers)?);
            }
            _ => return None,
        }
        Some(())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for remark in &self.remarks {
            writeln!(formatter, "# {remark}")?;
        }
        writeln!(formatter, "seed {}", self.seed)?;
        if let Some(variant) = &self.variant {
            writeln!(formatter, "variant {variant}")?;
        }
        if let Some(expects) = &self.expects {
            writeln!(formatter, "expects {expects}")?;
        }
        for (name, value) in &self.settings {
            writeln!(formatter, "set {name} {value}")?;
        }
        for (choice, numbers) in &self.only {
            writeln!(formatter, "only {} {}", choice.name(), ranges(numbers))?;
        }
        for (choice, numbers) in &self.skips {
            if !numbers.is_empty() {
                writeln!(formatter, "skip {} {}", choice.name(), ranges(numbers))?;
            }
        }
        Ok(())
    }
}

/// What stands for no number at all.
const NONE: &str = "none";

/// `0-3,5` for 0, 1, 2, 3 and 5.
fn ranges(numbers: &Numbers) -> String {
    if numbers.is_empty() {
        return NONE.to_owned();
    }
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let show = |(first, last): &(u64, u64)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    runs.iter().map(show).collect::<Vec<_>>().join(",")
}

fn parse_numbers(text: &str) -> Option<Numbers> {
    let mut numbers = Numbers::new();
    if text == NONE {
        return Some(numbers);
    }
    for run in text.split(',') {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        // A case is checked in, yet nothing that is read may take all memory.
        if last.checked_sub(first)? > 1_000_000 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}
