use sim::exhaustive::point::{Call, Point, Risk, points};

fn call(object: bool, mutates: bool, before: usize, after: usize) -> Call {
    let risk = |operations| Risk {
        operations,
        drops: false,
    };
    Call {
        what: String::new(),
        object,
        mutates,
        before: risk(before),
        after: risk(after),
    }
}

#[test]
fn every_outcome_is_there_once() {
    let calls = [
        call(true, false, 5, 5),
        call(false, true, 0, 1),
        call(true, true, 2, 2),
    ];
    let all = points(
        &calls,
        1,
        Risk {
            operations: 1,
            drops: true,
        },
    );
    let names: Vec<String> = all.iter().map(Point::to_string).collect();
    assert_eq!(
        names.join(" "),
        "1:lost:kept 1:lost:gone 1:landed:kept 1:landed:gone 1:landed:torn0 1:slept1:gone \
         1:slept2:gone 2:lost:kept 2:lost:gone 2:lost:torn0 2:lost:torn1 2:landed:kept \
         2:landed:gone 2:landed:torn0 2:landed:torn1 2:late1:kept 2:late1:gone 2:late1:torn0 \
         2:late1:torn1 2:late2:kept 2:late2:gone 2:late2:torn0 2:late2:torn1 2:slept1:gone \
         2:slept2:gone 3:lost:kept 3:lost:gone 3:lost:torn0 3:lost:torn0+back \
         3:lost:torn1+back 3:slept1:gone 3:slept2:gone"
    );
    for point in all {
        assert_eq!(Point::parse(&point.to_string()), Some(point));
    }
    assert_eq!(Point::parse("1:lost"), None);
    assert_eq!(Point::parse("1:lost:kept:x"), None);
}
