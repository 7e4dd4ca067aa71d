use sim::case::{Case, Numbers};
use sim::journal::Choice;
use sim::plan::Plan;

#[test]
fn a_case_is_read_as_it_was_written() {
    let mut case = Case::of(17);
    case.remarks.push("what it shows".to_owned());
    case.variant = Some("ack before sync".to_owned());
    case.expects = Some("oracle 1 (flushed)".to_owned());
    case.settings.insert("store.late".to_owned(), 0);
    let numbers = Numbers::from([0, 1, 2, 5, 7, 8]);
    case.skips.insert(Choice::Event, numbers);
    case.only.insert(Choice::Operation, Numbers::from([3]));
    case.only.insert(Choice::Fault, Numbers::new());
    let text = case.to_string();
    assert!(text.contains("skip events 0-2,5,7-8"), "{text}");
    assert!(
        text.contains("only operations 3\nonly faults none"),
        "{text}"
    );
    assert_eq!(Case::parse(&text), Ok(case));
}

#[test]
fn a_whole_seed_is_its_own_plan() {
    let plan = format!("{:?}", Plan::of(3));
    assert_eq!(format!("{:?}", Case::of(3).plan()), plan);
}

#[test]
fn what_is_no_case_is_refused() {
    for text in [
        "seed",
        "seed x",
        "set nothing 1",
        "skip events 5-3",
        "skip all 1",
        "hm 1",
    ] {
        assert!(Case::parse(text).is_err(), "{text}");
    }
}
