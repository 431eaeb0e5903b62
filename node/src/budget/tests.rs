use super::*;

fn limited(limit: u64) -> Arc<KeyBudget> {
    let budget = Arc::new(KeyBudget::default());
    budget.set_limit(limit);
    budget
}

fn request(budget: &KeyBudget) -> GrantRequest {
    GrantRequest {
        asked: Instant::now(),
        limit: budget.limit(),
    }
}

fn grant(budget: &KeyBudget, keys: u64) {
    let request = request(budget);
    assert!(budget.receive(budget.next_grant(keys), request, Duration::ZERO));
}

/// Takes room for a shard that this node leads since before there was room.
fn take(budget: &Arc<KeyBudget>) -> Option<Reservation> {
    budget.take(budget.start)
}

#[test]
fn room_is_taken_up_to_what_was_granted() {
    let budget = limited(10);
    assert!(take(&budget).is_none());
    grant(&budget, 2);
    let (one, two) = (take(&budget).unwrap(), take(&budget).unwrap());
    assert!(take(&budget).is_none());
    assert_eq!((budget.held(false).left, budget.held(false).taken), (0, 2));
    one.unused();
    drop(two);
    assert_eq!((budget.held(false).left, budget.held(false).taken), (1, 0));
}

#[test]
fn recalled_room_is_gone_and_taken_room_stays() {
    let budget = limited(10);
    grant(&budget, 5);
    let taken = take(&budget).unwrap();
    let held = budget.held(true);
    assert_eq!((held.left, held.taken), (0, 1));
    assert!(!budget.has_room(budget.start));
    drop(taken);
    assert_eq!(budget.held(false).taken, 0);
}

#[test]
fn a_grant_counts_at_its_sender_until_it_is_seen_or_cannot_be_used() {
    let (sender, receiver) = (limited(10), limited(10));
    let made = Instant::now();
    let soon = made + GRANT_TIMEOUT;
    let grant = sender.next_grant(3);
    sender.sent_grant(7, grant, made);
    sender.seen_grant(7, receiver.held(false).last_grant);
    assert_eq!(sender.unseen_grants(soon), 3);
    receiver.receive(grant, request(&receiver), Duration::ZERO);
    sender.seen_grant(7, receiver.held(false).last_grant);
    assert_eq!(sender.unseen_grants(soon), 0);
    sender.sent_grant(7, sender.next_grant(4), made);
    sender.forget_grant_to(7);
    assert_eq!(sender.unseen_grants(soon), 0);
    // Node 7 dies, and is never seen again.
    sender.sent_grant(7, sender.next_grant(5), made);
    assert_eq!(sender.unseen_grants(made + GRANT_SEEN_AFTER / 2), 5);
    assert_eq!(sender.unseen_grants(made + GRANT_SEEN_AFTER), 0);
}

#[test]
fn a_grant_that_comes_late_is_told_of_and_not_used() {
    let budget = limited(10);
    let (grant, request) = (budget.next_grant(3), request(&budget));
    let took = Duration::from_millis(40);
    let late = request.asked + took + GRANT_TIMEOUT;
    assert!(!budget.receive_at(|| late, grant, request, took));
    assert!(take(&budget).is_none());
    assert_eq!(budget.held(false).last_grant, grant.id);
    let in_time = late - Duration::from_millis(1);
    assert!(budget.receive_at(|| in_time, grant, request, took));
    assert!(take(&budget).is_some());
}

#[test]
fn room_ends_with_the_term_in_which_it_was_asked_for() {
    let budget = limited(10);
    let first_term = Instant::now();
    grant(&budget, 5);
    let waits = budget.take(first_term).unwrap();
    assert!(waits.was_asked_since(first_term));
    let second_term = Instant::now() + Duration::from_nanos(1);
    assert!(!budget.has_room(second_term));
    assert!(budget.take(second_term).is_none());
    assert!(!waits.was_asked_since(second_term));
    // What is granted now is good in the second term, and what is given back doesn't add to it.
    let asked = GrantRequest {
        asked: second_term,
        limit: 10,
    };
    assert!(budget.receive(budget.next_grant(2), asked, Duration::ZERO));
    waits.unused();
    assert_eq!(budget.held(false).left, 2);
    assert!(
        budget
            .take(second_term)
            .unwrap()
            .was_asked_since(second_term)
    );
}

#[test]
fn a_lower_limit_takes_back_the_room_granted_under_the_higher_one() {
    let budget = limited(1000);
    grant(&budget, 5);
    let under_way = take(&budget).unwrap();
    budget.set_limit(10);
    assert!(take(&budget).is_none());
    under_way.unused();
    assert!(
        take(&budget).is_none(),
        "room goes back to its own limit only"
    );
    let late = budget.next_grant(100);
    let asked = GrantRequest {
        limit: 1000,
        ..request(&budget)
    };
    assert!(!budget.receive(late, asked, Duration::ZERO));
    assert!(take(&budget).is_none());
    assert_eq!(budget.held(false).last_grant, late.id);
}

#[test]
fn writers_in_parallel_take_no_more_than_was_granted() {
    let budget = limited(u64::MAX);
    grant(&budget, 5000);
    let used = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let (budget, used) = (budget.clone(), used.clone());
            std::thread::spawn(move || {
                let mut n = 0;
                while let Some(reservation) = take(&budget) {
                    n += 1;
                    if (n + writer) % 3 == 0 {
                        reservation.unused();
                    } else {
                        used.fetch_add(1, Ordering::AcqRel);
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(used.load(Ordering::Acquire), 5000);
    assert_eq!((budget.held(false).left, budget.held(false).taken), (0, 0));
}
