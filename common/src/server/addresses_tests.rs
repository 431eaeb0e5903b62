//! Places of addresses, and who loses one.

use super::*;
use crate::server::conn::pulse::Order;

const LONG: Duration = Duration::from_secs(60);

/// Connections of one address: their marks, and their places.
struct Crowd {
    address: Arc<Address>,
    pulses: Vec<Arc<Pulse>>,
    places: Vec<Place>,
}

fn crowd(addresses: &Addresses, address: &str, numbers: std::ops::Range<u32>) -> Crowd {
    let mut crowd = Crowd {
        address: addresses.of(address.parse().unwrap()),
        pulses: vec![],
        places: vec![],
    };
    for number in numbers {
        let pulse = Arc::new(Pulse::default());
        let place = crowd.address.admit(number, &pulse, usize::MAX).unwrap();
        crowd.pulses.push(pulse);
        crowd.places.push(place);
    }
    crowd
}

/// Notes that connections have been idle since `start`, and so much later.
fn idle(crowd: &Crowd, start: Instant, later: &[u64]) {
    for (pulse, seconds) in crowd.pulses.iter().zip(later) {
        let since = start + Duration::from_secs(*seconds);
        pulse.note_idle(since, pulse.marks().started);
    }
}

fn ended(crowd: &Crowd) -> Vec<usize> {
    let ended = crowd.pulses.iter().enumerate();
    ended
        .filter(|(_, pulse)| pulse.order() != Order::Serve)
        .map(|(index, _)| index)
        .collect()
}

#[test]
fn a_full_address_loses_its_own_longest_idle_connection() {
    let (addresses, start) = (Addresses::default(), Instant::now() + LONG);
    let one = crowd(&addresses, "1.1.1.1", 0..3);
    let other = crowd(&addresses, "1.1.1.2", 3..6);
    idle(&one, start, &[9, 5, 7]);
    idle(&other, start, &[0, 0, 0]);
    let _running = one.pulses[1].begin();
    let pulse = Arc::new(Pulse::default());
    let place = one.address.admit(6, &pulse, 3).unwrap();
    assert_eq!((ended(&one), ended(&other)), (vec![2], vec![]));
    assert!(one.address.is_full(3));
    drop(place);
    assert!(!one.address.is_full(3), "its place is free at once");
}

#[test]
fn an_address_whose_connections_are_all_busy_gets_no_more() {
    let addresses = Addresses::default();
    let one = crowd(&addresses, "1.1.1.1", 0..2);
    let _running: Vec<_> = one.pulses.iter().map(|pulse| pulse.begin()).collect();
    let pulse = Arc::new(Pulse::default());
    assert!(one.address.admit(2, &pulse, 2).is_none());
    assert!(ended(&one).is_empty());
}

#[test]
fn a_full_port_loses_the_longest_idle_connection_of_all() {
    let (addresses, start) = (Addresses::default(), Instant::now() + LONG);
    let one = crowd(&addresses, "1.1.1.1", 0..2);
    let other = crowd(&addresses, "1.1.1.2", 2..4);
    idle(&one, start, &[4, 1]);
    idle(&other, start, &[3, 2]);
    let mut order = vec![];
    for _ in 0..3 {
        assert!(addresses.evict_longest_idle());
        order.push((ended(&one), ended(&other)));
    }
    let expected = [(vec![1], vec![]), (vec![1], vec![1]), (vec![1], vec![0, 1])];
    assert_eq!(order, expected);
    let _running = one.pulses[0].begin();
    assert!(!addresses.evict_longest_idle(), "nobody is idle");
}

#[test]
fn who_has_asked_since_it_was_looked_at_is_idle_for_the_shortest_time() {
    let (addresses, start) = (Addresses::default(), Instant::now() + LONG);
    let one = crowd(&addresses, "1.1.1.1", 0..2);
    idle(&one, start, &[1, 2]);
    drop(one.pulses[0].begin());
    assert!(addresses.evict_longest_idle());
    assert_eq!(ended(&one), [1]);
}

#[test]
fn requests_under_way_are_limited() {
    let address = Addresses::default().of("1.1.1.1".parse().unwrap());
    let first = address.begin(2).unwrap();
    let _second = address.begin(2).unwrap();
    assert!(address.begin(2).is_none());
    drop(first);
    assert!(address.begin(2).is_some(), "what was refused isn't counted");
}

#[test]
fn addresses_are_told_apart_as_long_as_they_are_there() {
    let addresses = Addresses::default();
    let of = |text: &str| addresses.of(text.parse().unwrap());
    let one = of("2001:db8:1:2:3:4:5:6");
    assert!(Arc::ptr_eq(&one, &of("2001:db8:1:2::7")));
    assert!(!Arc::ptr_eq(&one, &of("2001:db8:1:3::7")));
    let known = || -> usize { addresses.0.shards.iter().map(|it| it.lock().len()).sum() };
    assert_eq!(known(), 1);
    drop(one);
    assert_eq!(known(), 0);
    assert_eq!(
        network_of("::ffff:9.8.7.6".parse().unwrap()).to_string(),
        "9.8.7.6"
    );
    assert_eq!(
        network_of("2001:db8:1:2:3::".parse().unwrap()).to_string(),
        "2001:db8:1:2::"
    );
}
