use sim::exhaustive::enumerate::{Part, enumerate};
use sim::exhaustive::workload::Shape;

#[test]
fn parts_are_read_and_cover_everything_once() {
    for wrong in ["", "1", "0/3", "4/3", "1/0", "a/b"] {
        assert_eq!(Part::parse(wrong), None, "{wrong}");
    }
    assert_eq!(Part::parse("1/1"), Some(Part::WHOLE));
    let parts = ["1/3", "2/3", "3/3"].map(|it| Part::parse(it).expect("a part"));
    for number in 0..10 {
        assert_eq!(parts.iter().filter(|it| it.has(number)).count(), 1);
    }
    let of = |part| enumerate(Shape::Small, 1, part, |_| ()).worlds;
    assert_eq!(parts.map(of).iter().sum::<usize>(), of(Part::WHOLE));
}
