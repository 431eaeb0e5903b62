use super::*;

fn limited(limit: u64) -> Arc<KeyBudget> {
    let quota = Arc::new(KeyBudget::default());
    quota.set_limit(limit);
    quota
}

fn request(quota: &KeyBudget) -> GrantRequest {
    GrantRequest {
        asked: Instant::now(),
        limit: quota.limit(),
    }
}

fn grant(quota: &KeyBudget, keys: u64) {
    let request = request(quota);
    assert!(quota.receive(quota.next_grant(keys), request, Duration::ZERO));
}

/// Reserves quota for a shard that this node has led since before there was quota.
fn take(quota: &Arc<KeyBudget>) -> Option<Reservation> {
    quota.take(quota.start)
}

#[test]
fn quota_is_reserved_up_to_the_granted_keys() {
    let quota = limited(10);
    assert!(take(&quota).is_none());
    grant(&quota, 2);
    let (one, two) = (take(&quota).unwrap(), take(&quota).unwrap());
    assert!(take(&quota).is_none());
    assert_eq!((quota.held(false).left, quota.held(false).taken), (0, 2));
    one.unused();
    drop(two);
    assert_eq!((quota.held(false).left, quota.held(false).taken), (1, 0));
}

#[test]
fn a_recall_drops_available_quota_and_keeps_reserved_quota() {
    let quota = limited(10);
    grant(&quota, 5);
    let taken = take(&quota).unwrap();
    let lease = quota.held(true);
    assert_eq!((lease.left, lease.taken), (0, 1));
    assert!(!quota.has_room(quota.start));
    drop(taken);
    assert_eq!(quota.held(false).taken, 0);
}

#[test]
fn a_grant_counts_at_its_sender_until_it_is_seen_or_cannot_be_used() {
    let (sender, receiver) = (limited(10), limited(10));
    let made = Instant::now();
    let in_time = made + GRANT_TIMEOUT;
    let grant = sender.next_grant(3);
    sender.sent_grant(7, grant, made);
    sender.seen_grant(7, receiver.held(false).last_grant);
    assert_eq!(sender.unseen_grants(in_time), 3);
    receiver.receive(grant, request(&receiver), Duration::ZERO);
    sender.seen_grant(7, receiver.held(false).last_grant);
    assert_eq!(sender.unseen_grants(in_time), 0);
    sender.sent_grant(7, sender.next_grant(4), made);
    sender.forget_grant_to(7);
    assert_eq!(sender.unseen_grants(in_time), 0);
    // Node 7 fails, and is never seen again.
    sender.sent_grant(7, sender.next_grant(5), made);
    assert_eq!(sender.unseen_grants(made + GRANT_SEEN_AFTER / 2), 5);
    assert_eq!(sender.unseen_grants(made + GRANT_SEEN_AFTER), 0);
}

#[test]
fn a_late_grant_is_reported_and_not_used() {
    let quota = limited(10);
    let (grant, request) = (quota.next_grant(3), request(&quota));
    let took = Duration::from_millis(40);
    let late = request.asked + took + GRANT_TIMEOUT;
    assert!(!quota.receive_at(|| late, grant, request, took));
    assert!(take(&quota).is_none());
    assert_eq!(quota.held(false).last_grant, grant.id);
    let in_time = late - Duration::from_millis(1);
    assert!(quota.receive_at(|| in_time, grant, request, took));
    assert!(take(&quota).is_some());
}

#[test]
fn quota_expires_with_the_term_in_which_it_was_requested() {
    let quota = limited(10);
    let first_term = Instant::now();
    grant(&quota, 5);
    let pending = quota.take(first_term).unwrap();
    assert!(pending.was_asked_since(first_term));
    let second_term = Instant::now() + Duration::from_nanos(1);
    assert!(!quota.has_room(second_term));
    assert!(quota.take(second_term).is_none());
    assert!(!pending.was_asked_since(second_term));
    // Quota granted now is valid in the second term, and released quota doesn't add to it.
    let new_request = GrantRequest {
        asked: second_term,
        limit: 10,
    };
    assert!(quota.receive(quota.next_grant(2), new_request, Duration::ZERO));
    pending.unused();
    assert_eq!(quota.held(false).left, 2);
    assert!(
        quota
            .take(second_term)
            .unwrap()
            .was_asked_since(second_term)
    );
}

#[test]
fn a_lower_limit_drops_quota_granted_under_a_higher_one() {
    let quota = limited(1000);
    grant(&quota, 5);
    let pending = take(&quota).unwrap();
    quota.set_limit(10);
    assert!(take(&quota).is_none());
    pending.unused();
    assert!(
        take(&quota).is_none(),
        "quota is released to its own limit only"
    );
    let late = quota.next_grant(100);
    let old_request = GrantRequest {
        limit: 1000,
        ..request(&quota)
    };
    assert!(!quota.receive(late, old_request, Duration::ZERO));
    assert!(take(&quota).is_none());
    assert_eq!(quota.held(false).last_grant, late.id);
}

#[test]
fn parallel_writers_reserve_no_more_than_the_granted_keys() {
    let quota = limited(u64::MAX);
    grant(&quota, 5000);
    let used = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let (quota, used) = (quota.clone(), used.clone());
            std::thread::spawn(move || {
                let mut n = 0;
                while let Some(reservation) = take(&quota) {
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
    assert_eq!((quota.held(false).left, quota.held(false).taken), (0, 0));
}
