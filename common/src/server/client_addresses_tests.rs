//! Slots of addresses, and evictions.

use super::*;
use crate::server::conn::state::Directive;

const START_DELAY: Duration = Duration::from_secs(60);

/// Connections of one address: their states, and their slots.
struct AddressConnections {
    address: Arc<ClientAddress>,
    states: Vec<Arc<ConnectionState>>,
    slots: Vec<ConnectionSlot>,
}

fn connect(
    addresses: &ClientAddresses,
    address: &str,
    numbers: std::ops::Range<u32>,
) -> AddressConnections {
    let mut connections = AddressConnections {
        address: addresses.get_or_insert(address.parse().unwrap()),
        states: vec![],
        slots: vec![],
    };
    for number in numbers {
        let state = Arc::new(ConnectionState::default());
        let slot = connections
            .address
            .admit(number, &state, usize::MAX)
            .unwrap();
        connections.states.push(state);
        connections.slots.push(slot);
    }
    connections
}

/// Records that connections have been idle since so many seconds after `start`.
fn set_idle(connections: &AddressConnections, start: Instant, seconds: &[u64]) {
    for (state, seconds) in connections.states.iter().zip(seconds) {
        let since = start + Duration::from_secs(*seconds);
        state.set_idle_since(since, state.activity().started);
    }
}

fn evicted(connections: &AddressConnections) -> Vec<usize> {
    let all = connections.states.iter().enumerate();
    all.filter(|(_, state)| state.directive() != Directive::Serve)
        .map(|(index, _)| index)
        .collect()
}

#[test]
fn a_full_address_loses_its_own_longest_idle_connection() {
    let (addresses, start) = (ClientAddresses::default(), Instant::now() + START_DELAY);
    let one = connect(&addresses, "1.1.1.1", 0..3);
    let other = connect(&addresses, "1.1.1.2", 3..6);
    set_idle(&one, start, &[9, 5, 7]);
    set_idle(&other, start, &[0, 0, 0]);
    let _running = one.states[1].begin_request();
    let state = Arc::new(ConnectionState::default());
    let slot = one.address.admit(6, &state, 3).unwrap();
    assert_eq!((evicted(&one), evicted(&other)), (vec![2], vec![]));
    assert!(one.address.is_full(3));
    drop(slot);
    assert!(!one.address.is_full(3), "its slot is free at once");
}

#[test]
fn an_address_whose_connections_are_all_busy_gets_no_more() {
    let addresses = ClientAddresses::default();
    let one = connect(&addresses, "1.1.1.1", 0..2);
    let _running: Vec<_> = one
        .states
        .iter()
        .map(|state| state.begin_request())
        .collect();
    let state = Arc::new(ConnectionState::default());
    assert!(one.address.admit(2, &state, 2).is_none());
    assert!(evicted(&one).is_empty());
}

#[test]
fn a_full_port_loses_the_longest_idle_connection_of_all() {
    let (addresses, start) = (ClientAddresses::default(), Instant::now() + START_DELAY);
    let one = connect(&addresses, "1.1.1.1", 0..2);
    let other = connect(&addresses, "1.1.1.2", 2..4);
    set_idle(&one, start, &[4, 1]);
    set_idle(&other, start, &[3, 2]);
    let mut order = vec![];
    for _ in 0..3 {
        assert!(addresses.evict_longest_idle());
        order.push((evicted(&one), evicted(&other)));
    }
    let expected = [(vec![1], vec![]), (vec![1], vec![1]), (vec![1], vec![0, 1])];
    assert_eq!(order, expected);
    let _running = one.states[0].begin_request();
    assert!(!addresses.evict_longest_idle(), "none is idle");
}

#[test]
fn a_connection_with_a_request_since_the_last_sweep_is_evicted_last() {
    let (addresses, start) = (ClientAddresses::default(), Instant::now() + START_DELAY);
    let one = connect(&addresses, "1.1.1.1", 0..2);
    set_idle(&one, start, &[1, 2]);
    drop(one.states[0].begin_request());
    assert!(addresses.evict_longest_idle());
    assert_eq!(evicted(&one), [1]);
}

#[test]
fn requests_under_way_are_limited() {
    let address = ClientAddresses::default().get_or_insert("1.1.1.1".parse().unwrap());
    let first = address.begin_request(2).unwrap();
    let _second = address.begin_request(2).unwrap();
    assert!(address.begin_request(2).is_none());
    drop(first);
    assert!(
        address.begin_request(2).is_some(),
        "what was refused isn't counted"
    );
}

#[test]
fn addresses_have_a_record_while_they_are_connected() {
    let addresses = ClientAddresses::default();
    let of = |text: &str| addresses.get_or_insert(text.parse().unwrap());
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
