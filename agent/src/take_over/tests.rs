use super::*;

fn terms() -> Terms {
    Terms {
        maps: "0123456789abcdef".to_owned(),
        workers: 2,
        local_acceleration: false,
    }
}

#[test]
fn terms_that_differ_are_named_with_what_to_do() {
    assert_eq!(terms().objection(&terms()), None);
    for (heir, part) in [
        (
            Terms {
                maps: "ffff".to_owned(),
                ..terms()
            },
            "stop this agent, then start the other",
        ),
        (
            Terms {
                workers: 3,
                ..terms()
            },
            "start it with --workers 2",
        ),
        (
            Terms {
                local_acceleration: true,
                ..terms()
            },
            "local_acceleration",
        ),
    ] {
        let why = terms().objection(&heir).unwrap();
        assert!(why.contains(part), "{why}");
    }
}
