//! Mutation testing of the simulation: known-bad variants of the engine, each of which must be
//! caught. Each process runs one variant, which an environment variable names. A program that is
//! built without debug assertions has no variants ([`mvps_core::mutant::SELECTABLE`]).
#![expect(clippy::print_stdout, reason = "this is the command line")]

use std::process::ExitCode;
use std::sync::Mutex;

use mvps_core::mutant::{ALL, ON_FILES, SELECTABLE};

use crate::runner::run_apart_as;

/// Seeds that a variant may survive, when nothing else is asked for.
pub const SEEDS: u64 = 200;

/// Seeds that caught a variant which seed 0 does not: where CI begins, which has not the time to
/// search. `mutants` begins at 0, and its figures are those of the table in the README.
pub const KNOWN: &[(&str, u64)] = &[
    ("a confirmation lasts half as long again", 3),
    ("a copied folder's reader taken for an earlier life", 3),
    ("a hole frees the first leaf that it covers", 6),
    ("a leaf loses its last page", 6),
    ("a leaf that moves is left behind", 6),
    ("a pin taken over is left as it was", 3),
    ("a split checkpoint publishes its first segment", 5),
    ("a transaction commits without a change that failed", 46),
    ("a version ages while it is the newest", 4),
    ("ack before sync", 1),
    ("all leaves are said to be where the first one is", 6),
    ("buffer replayed onto another history", 14),
    ("checkpoint answered before its commits", 1),
    ("cleaning resurrects overwritten pages", 2),
    ("commits during an upload wait for others", 2),
    ("conflict check skipped", 1),
    ("conflict check skipped for trimmed pages", 1),
    ("corrupted frame served", 85),
    ("failed commit answered as success", 5),
    ("failed read served as zeroes", 16),
    ("failed sync answered as success", 25),
    ("growth forgets the retired list", 40),
    ("image handed back while somebody reads", 113),
    ("lock not exclusive", 1),
    ("lost reply taken for failure", 10),
    ("merging never comes to an end", 18),
    ("no epoch check", 1),
    ("outdated buffer opened", 14),
    ("page LSNs forgotten with the dropped generation", 1),
    ("page numbers of the map have 32 bits", 13),
    ("pending tenure forgotten", 8),
    ("publication counter reused for another body", 28),
    ("recovered commits wait for others", 40),
    ("released one view early", 22),
    ("retired objects forgotten", 22),
    ("revoked request committed", 1),
    ("rollback takes back before it is published", 1026),
    ("silence lasts for ever", 228),
    ("size told before it is published", 1),
    ("stale old page accepted", 3),
    ("the conflict window forgets and aborts nobody", 5),
    ("the conflict window is pruned by the newest view", 86),
    ("unchanged is judged by the place in a segment", 1),
    ("unclean image opened without takeover", 2),
    ("view published before the buffer commit", 1),
    ("what begins a second segment is lost", 5),
    ("who checks need not wait", 1),
    ("who waits for the store waits for the interval", 21),
    ("write accepted after an attempted clean close", 6),
];

/// Where the search for a seed that catches a variant begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// At 0: how many seeds it takes is a figure.
    FromZero,
    /// At the seed that is known to catch it.
    KnownFirst,
}

/// How a variant fared.
struct Fate {
    name: &'static str,
    /// The number of seeds that it took, and what was noticed.
    caught: Option<(u64, String)>,
}

/// Runs every variant, or the one that was asked for; succeeds if each is caught.
#[must_use]
pub fn judge(seeds: u64, chosen: Option<&str>, search: Search) -> ExitCode {
    if !SELECTABLE {
        println!("this program was built without variants: see `cargo sim`");
        return ExitCode::FAILURE;
    }
    let names = ALL.iter().chain(ON_FILES).copied();
    let names = names.filter(|name| chosen.is_none_or(|only| only == *name));
    let fates = run(names.collect(), seeds, search);
    let mut caught_after: Vec<u64> = fates
        .iter()
        .filter_map(|fate| Some(fate.caught.as_ref()?.0))
        .collect();
    caught_after.sort_unstable();
    let median = caught_after.get(caught_after.len() / 2);
    let survived = fates.len() - caught_after.len();
    if search == Search::FromZero {
        let median = median.copied().unwrap_or(0);
        println!("median: {median} seeds to detection");
    }
    if search == Search::FromZero && chosen.is_none() {
        print_table(&fates);
    }
    println!("{} passed, {survived} failed", caught_after.len());
    if survived == 0 && !fates.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints the README's table: what noticed each variant, and how many seeds that took.
fn print_table(fates: &[Fate]) {
    let rows = fates.iter().map(|fate| match &fate.caught {
        Some((after, failure)) => (oracle_of(failure), fate.name, after.to_string()),
        None => ("none".to_owned(), fate.name, "more".to_owned()),
    });
    let number = |oracle: &str| {
        let digits: String = oracle.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(u32::MAX)
    };
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|(oracle, name, _)| (number(oracle), oracle.clone(), *name));
    println!("| variant | oracle | seeds |\n|---|---|---:|");
    for (oracle, name, seeds) in rows {
        println!("| {name} | {oracle} | {seeds} |");
    }
}

/// The oracle that a failure names.
fn oracle_of(failure: &str) -> String {
    let named = failure.lines().find_map(|line| {
        let (_, text) = line.split_once("oracle ")?;
        Some(text.split_once(": ")?.0.to_owned())
    });
    named.unwrap_or_else(|| "an assertion of the engine".to_owned())
}

/// Runs variants on all cores, each until it is caught, and prints each when its fate is known.
fn run(names: Vec<&'static str>, seeds: u64, search: Search) -> Vec<Fate> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(names.into_iter());
    let fates = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let name = queue.lock().expect("drawing does not panic").next();
                    let Some(name) = name else { return };
                    let fate = fate_of(name, seeds, search);
                    fate.print(seeds);
                    fates.lock().expect("adding does not panic").push(fate);
                }
            });
        }
    });
    fates.into_inner().expect("adding does not panic")
}

fn fate_of(name: &'static str, seeds: u64, search: Search) -> Fate {
    let known = KNOWN.iter().find(|(variant, _)| *variant == name);
    let known = known.filter(|_| search == Search::KnownFirst);
    let mut order = known
        .map(|(_, seed)| *seed)
        .into_iter()
        .chain(0..seeds)
        .zip(1..);
    let caught = order.find_map(|(seed, tried)| {
        let outcome = run_apart_as(seed, name);
        // Who goes round in a circle was noticed by nobody.
        let failure = outcome.failure.filter(|_| !outcome.is_endless);
        failure.map(|failure| (tried, failure))
    });
    Fate { name, caught }
}

impl Fate {
    fn print(&self, seeds: u64) {
        let name = self.name;
        let Some((after, failure)) = &self.caught else {
            println!("{name:<48} SURVIVED {seeds} seeds");
            return;
        };
        let mut lines = failure.lines();
        let what = lines.find_map(|line| line.strip_prefix("seed ")?.split_once(": "));
        let what: String = what
            .map_or("", |(_, what)| what)
            .chars()
            .take(100)
            .collect();
        println!("{name:<48} caught after {after:>4} seeds: {what}");
    }
}
