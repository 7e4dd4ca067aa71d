use sim::case::{Case, KNOBS, Numbers};
use sim::journal::Choice;
use sim::shrink::{Shrinker, Verdict, oracle_of};

fn happens(case: &Case, choice: Choice, number: u64) -> bool {
    let only = case.only.get(&choice);
    only.is_none_or(|it| it.contains(&number))
}

/// Fails if event 6 and operations 40 and 41 happen, with two clients at least.
fn model(case: &Case) -> Verdict {
    let fails = happens(case, Choice::Event, 6)
        && happens(case, Choice::Operation, 40)
        && happens(case, Choice::Operation, 41)
        && case.settings["clients"] >= 2;
    Verdict {
        oracle: fails.then(|| "oracle 5 (reads)".to_owned()),
        choices: vec![10, 100, 50],
        events: 1000,
    }
}

fn whole() -> Case {
    let mut case = Case::of(1);
    case.settings.insert("clients".to_owned(), 5);
    case
}

#[test]
fn only_what_is_needed_remains() {
    let mut runs = 0;
    let counted = |case: &Case| {
        runs += 1;
        model(case)
    };
    let shrinker = Shrinker::new(whole(), 1000, counted).expect("it fails");
    let (case, verdict) = shrinker.shrink();
    assert_eq!(verdict.oracle.as_deref(), Some("oracle 5 (reads)"));
    assert_eq!(case.expects.as_deref(), Some("oracle 5 (reads)"));
    assert_eq!(case.settings["clients"], 2);
    for (name, least) in KNOBS.iter().filter(|(name, _)| *name != "clients") {
        assert_eq!(case.settings[*name], *least, "{name}");
    }
    assert_eq!(case.only[&Choice::Event], Numbers::from([6]));
    assert_eq!(case.only[&Choice::Operation], Numbers::from([40, 41]));
    assert!(case.only[&Choice::Fault].is_empty());
    assert_eq!(verdict.size(&case), 3);
    assert!(runs < 120, "{runs} runs");
}

/// What is left out makes the run go on for longer, and draw more.
#[test]
fn a_run_that_goes_on_does_not_grow() {
    let model = |case: &Case| {
        let drawn = if happens(case, Choice::Operation, 40) {
            50
        } else {
            5000
        };
        let fails = (0..drawn).filter(|it| happens(case, Choice::Operation, *it));
        Verdict {
            oracle: (fails.count() >= 3).then(|| "oracle 1".to_owned()),
            choices: vec![0, drawn, 0],
            events: drawn,
        }
    };
    let (case, verdict) = Shrinker::new(whole(), 1000, model)
        .expect("it fails")
        .shrink();
    assert_eq!(verdict.size(&case), 3, "{case}");
}

#[test]
fn what_does_not_fail_is_not_shrunk_and_the_budget_is_kept() {
    let healthy = |_: &Case| Verdict::default();
    assert!(Shrinker::new(Case::of(1), 10, healthy).is_none());
    let mut runs = 0;
    let counted = |case: &Case| {
        runs += 1;
        model(case)
    };
    Shrinker::new(whole(), 10, counted)
        .expect("it fails")
        .shrink();
    assert_eq!(runs, 11);
}

#[test]
fn a_failure_names_its_oracle() {
    let said = |line: &str| oracle_of(&format!("context: node=3\n{line}\n  more"));
    assert_eq!(said("FAILURE oracle 5 (reads): alpha"), "oracle 5 (reads)");
    assert_eq!(
        said("FAILURE batches come in order"),
        "batches come in order"
    );
    assert_eq!(said("killed"), "it ended without a word");
}
