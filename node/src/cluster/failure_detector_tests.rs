use super::*;

const SECOND: i64 = 1_000_000_000;

fn id(number: u64) -> NodeId {
    NodeId::from(number)
}

#[test]
fn the_offset_is_that_of_the_middle_of_the_round_trip() {
    let pong = pb::Pong {
        received_at: 5_000,
        answered_at: 5_200,
        ..Default::default()
    };
    assert_eq!(clock_offset(1_000, &pong, 1_400), 3_900);
    assert_eq!(clock_offset(10_000, &pong, 10_200), -5_000);
}

#[test]
fn one_clock_that_is_off_is_detected() {
    // Two of three agree: the third is off, and each of them detects it.
    assert!(is_near_majority_exact(&[1000, 600 * SECOND]));
    assert!(!is_near_majority_exact(&[
        600 * SECOND,
        600 * SECOND - 1000
    ]));
    assert!(is_near_majority_exact(&[]));
    // Of two nodes, none knows which clock is wrong.
    assert!(is_near_majority_exact(&[600 * SECOND]));
    assert!(!is_near_majority_exact(&[-SECOND, -SECOND, -SECOND, 0]));
}

fn is_near_majority_exact(nanos: &[i64]) -> bool {
    let exact = |nanos: &i64| ClockOffset {
        node: id(7),
        nanos: *nanos,
        max_error: Duration::ZERO,
    };
    is_near_majority(&nanos.iter().map(exact).collect::<Vec<_>>(), nanos.len())
}

#[test]
fn a_slow_round_trip_proves_no_clock_wrong() {
    let slow = |nanos| ClockOffset {
        node: id(7),
        nanos,
        max_error: Duration::from_millis(300),
    };
    assert!(is_near_majority(&[slow(SECOND / 2), slow(SECOND / 2)], 2));
    assert!(!is_near_majority(&[slow(SECOND), slow(SECOND)], 2));
}

#[test]
fn offsets_are_logged_in_seconds_with_their_sign() {
    let offset = |nanos| ClockOffset {
        node: id(7),
        nanos,
        max_error: Duration::ZERO,
    };
    let texts = [-5 * SECOND, 600 * SECOND].map(|nanos| offset(nanos).seconds());
    assert_eq!(texts, ["-5.0 s", "+600.0 s"]);
}

#[test]
fn of_two_clocks_that_differ_none_is_said_to_agree() {
    let detector = FailureDetector::new(Clock::new(), 1, Arc::default());
    let update = |node, offset, others| {
        let pong = pb::Pong::default();
        detector.record_pong(node, Duration::from_millis(1), offset, &pong);
        detector.update_clock_state(others)
    };
    let event = update(id(7), 5 * SECOND, 1);
    assert!(matches!(event, Some(ClockEvent::Undecided(_))), "{event:?}");
    assert!(detector.is_clock_ok());
    assert!(update(id(7), 5 * SECOND, 1).is_none());
    // A third clock decides.
    let event = update(id(8), 0, 2);
    assert!(matches!(event, Some(ClockEvent::Agrees)), "{event:?}");
}

#[test]
fn a_starting_node_does_not_trust_its_clock_after_one_of_two_answers() {
    let started = || FailureDetector::new(Clock::new(), 1, Arc::default());
    let record = |detector: &FailureDetector, node, offset| {
        detector.record_pong(node, Duration::from_millis(1), offset, &pb::Pong::default());
        detector.update_clock_state(2);
        detector.is_clock_ok()
    };
    let off = started();
    assert!(!record(&off, id(7), -600 * SECOND));
    assert!(!record(&off, id(8), -600 * SECOND));
    let right = started();
    assert!(record(&right, id(7), 0));
    assert!(record(&right, id(8), -600 * SECOND));
}

#[test]
fn a_node_reports_its_clock_state_and_logs_it_once() {
    let detector = FailureDetector::new(Clock::new(), 1, Arc::default());
    let record = |node, offset| {
        detector.record_pong(node, Duration::from_millis(1), offset, &pb::Pong::default());
        detector.update_clock_state(3);
        let reply::Body::Pong(pong) = detector.pong(pb::Pong::default()) else {
            panic!("a ping is answered by a pong");
        };
        (
            pong.clock_off,
            detector.has_logged_clock_off.load(Ordering::Acquire),
        )
    };
    // Two nodes that agree with it would make its clock right.
    assert_eq!(record(id(7), -600 * SECOND), (true, false));
    assert_eq!(record(id(8), -600 * SECOND), (true, false));
    assert_eq!(record(id(9), -600 * SECOND), (true, true));
    // Silence of the others doesn't make its clock right.
    detector.histories.write().retain(|node, _| *node == id(7));
    detector.update_clock_state(3);
    assert!(!detector.is_clock_ok());
    for _ in 0..MAX_CLOCK_SAMPLES {
        record(id(7), 0);
        record(id(8), 0);
    }
    assert_eq!(record(id(9), -600 * SECOND), (false, false));
}

#[test]
fn a_node_whose_clock_is_off_is_not_fit_to_lead() {
    let detector = FailureDetector::new(Clock::new(), 1, Arc::default());
    let record = |clock_off| {
        let pong = pb::Pong {
            clock_off,
            ..Default::default()
        };
        detector.record_pong(id(7), Duration::from_millis(1), 0, &pong);
        detector.is_fit_to_lead(id(7), Duration::ZERO)
    };
    assert!(record(false));
    assert!(!record(true));
    assert!(record(false));
}

#[test]
fn a_starting_node_waits_until_it_knows_its_clock_state() {
    let is_ok = Arc::new(AtomicBool::new(false));
    let detector = FailureDetector::new(Clock::new(), 1, is_ok.clone());
    detector.update_clock_state(1);
    assert!(!detector.is_clock_ok());
    let members = pb::GroupMembers {
        group: 3,
        nodes: vec![7, 8],
    };
    let pong = pb::Pong {
        leads: vec![3, 5],
        members: vec![members],
        ..Default::default()
    };
    detector.record_pong(id(7), Duration::from_millis(1), 0, &pong);
    detector.update_clock_state(1);
    assert!(detector.is_clock_ok() && detector.is_alive(id(7)));
    assert_eq!(detector.leader_of(GroupId(3), |_| true), Some(id(7)));
    assert_eq!(detector.leader_of(GroupId(4), |_| true), None);
    assert!(
        detector.has_led_within(id(7), GroupId(3), PING_TIMEOUT)
            && !detector.has_led_within(id(7), GroupId(4), PING_TIMEOUT)
    );
    let members = |group| detector.members_of(GroupId(group), |_| true);
    assert_eq!(members(3), Some(vec![id(7), id(8)]));
    // The members are being changed.
    assert_eq!(members(5), None);
    assert_eq!(members(4), None);
    // Its last report as a leader is remembered for a while.
    detector.record_pong(id(7), Duration::from_millis(1), 0, &pb::Pong::default());
    assert_eq!(detector.leader_of(GroupId(3), |_| true), None);
    assert!(detector.has_led_within(id(7), GroupId(3), PING_TIMEOUT));
    assert!(!detector.has_led_within(id(7), GroupId(3), Duration::ZERO));
    for node in [7, 8, 9].map(id) {
        for _ in 0..MAX_CLOCK_SAMPLES {
            detector.record_pong(node, Duration::from_millis(1), SECOND, &pong);
        }
    }
    detector.update_clock_state(3);
    assert!(!is_ok.load(Ordering::Acquire));
}
