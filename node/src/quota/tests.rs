use super::*;

fn quota_with_limit(limit: u64) -> Arc<KeyQuota> {
    let quota = Arc::new(KeyQuota::default());
    quota.set_limit(limit);
    quota
}

fn request(quota: &KeyQuota) -> QuotaRequest {
    QuotaRequest {
        requested_at: Instant::now(),
        limit: quota.limit(),
    }
}

fn grant(quota: &KeyQuota, keys: u64) {
    let request = request(quota);
    assert!(quota.accept_grant(quota.new_grant(keys), request, Duration::ZERO));
}

/// Reserves quota for a shard that this node has led since before there was quota.
fn reserve(quota: &Arc<KeyQuota>) -> Option<Reservation> {
    quota.reserve(quota.start)
}

#[test]
fn quota_is_reserved_up_to_the_granted_keys() {
    let quota = quota_with_limit(10);
    assert!(reserve(&quota).is_none());
    grant(&quota, 2);
    let (one, two) = (reserve(&quota).unwrap(), reserve(&quota).unwrap());
    assert!(reserve(&quota).is_none());
    assert_eq!(
        (quota.lease(false).available, quota.lease(false).reserved),
        (0, 2)
    );
    one.release();
    drop(two);
    assert_eq!(
        (quota.lease(false).available, quota.lease(false).reserved),
        (1, 0)
    );
}

#[test]
fn a_recall_drops_available_quota_and_keeps_reserved_quota() {
    let quota = quota_with_limit(10);
    grant(&quota, 5);
    let taken = reserve(&quota).unwrap();
    let lease = quota.lease(true);
    assert_eq!((lease.available, lease.reserved), (0, 1));
    assert!(!quota.has_quota(quota.start));
    drop(taken);
    assert_eq!(quota.lease(false).reserved, 0);
}

#[test]
fn a_grant_counts_at_its_sender_until_it_is_seen_or_cannot_be_used() {
    let (sender, receiver) = (quota_with_limit(10), quota_with_limit(10));
    let node = NodeId::from(7);
    let made = Instant::now();
    let in_time = made + GRANT_TIMEOUT;
    let grant = sender.new_grant(3);
    sender.record_sent_grant(node, grant, made);
    sender.confirm_grant(node, receiver.lease(false).last_grant);
    assert_eq!(sender.unconfirmed_keys(in_time), 3);
    receiver.accept_grant(grant, request(&receiver), Duration::ZERO);
    sender.confirm_grant(node, receiver.lease(false).last_grant);
    assert_eq!(sender.unconfirmed_keys(in_time), 0);
    sender.record_sent_grant(node, sender.new_grant(4), made);
    sender.forget_grant(node);
    assert_eq!(sender.unconfirmed_keys(in_time), 0);
    // The node fails, and is never seen again.
    sender.record_sent_grant(node, sender.new_grant(5), made);
    assert_eq!(sender.unconfirmed_keys(made + GRANT_CONFIRM_TIMEOUT / 2), 5);
    assert_eq!(sender.unconfirmed_keys(made + GRANT_CONFIRM_TIMEOUT), 0);
}

#[test]
fn a_late_grant_is_reported_and_not_used() {
    let quota = quota_with_limit(10);
    let (grant, request) = (quota.new_grant(3), request(&quota));
    let took = Duration::from_millis(40);
    let late = request.requested_at + took + GRANT_TIMEOUT;
    assert!(!quota.accept_grant_at(|| late, grant, request, took));
    assert!(reserve(&quota).is_none());
    assert_eq!(quota.lease(false).last_grant, grant.id);
    let in_time = late - Duration::from_millis(1);
    assert!(quota.accept_grant_at(|| in_time, grant, request, took));
    assert!(reserve(&quota).is_some());
}

#[test]
fn quota_expires_with_the_term_in_which_it_was_requested() {
    let quota = quota_with_limit(10);
    let first_term = Instant::now();
    grant(&quota, 5);
    let pending = quota.reserve(first_term).unwrap();
    assert!(pending.was_requested_since(first_term));
    let second_term = Instant::now() + Duration::from_nanos(1);
    assert!(!quota.has_quota(second_term));
    assert!(quota.reserve(second_term).is_none());
    assert!(!pending.was_requested_since(second_term));
    // Quota granted now is valid in the second term, and released quota doesn't add to it.
    let new_request = QuotaRequest {
        requested_at: second_term,
        limit: 10,
    };
    assert!(quota.accept_grant(quota.new_grant(2), new_request, Duration::ZERO));
    pending.release();
    assert_eq!(quota.lease(false).available, 2);
    assert!(
        quota
            .reserve(second_term)
            .unwrap()
            .was_requested_since(second_term)
    );
}

#[test]
fn a_lower_limit_drops_quota_granted_under_a_higher_one() {
    let quota = quota_with_limit(1000);
    grant(&quota, 5);
    let pending = reserve(&quota).unwrap();
    quota.set_limit(10);
    assert!(reserve(&quota).is_none());
    pending.release();
    assert!(
        reserve(&quota).is_none(),
        "quota is released to its own limit only"
    );
    let late = quota.new_grant(100);
    let old_request = QuotaRequest {
        limit: 1000,
        ..request(&quota)
    };
    assert!(!quota.accept_grant(late, old_request, Duration::ZERO));
    assert!(reserve(&quota).is_none());
    assert_eq!(quota.lease(false).last_grant, late.id);
}

#[test]
fn parallel_writers_reserve_no_more_than_the_granted_keys() {
    let quota = quota_with_limit(u64::MAX);
    grant(&quota, 5000);
    let used = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let (quota, used) = (quota.clone(), used.clone());
            std::thread::spawn(move || {
                let mut n = 0;
                while let Some(reservation) = reserve(&quota) {
                    n += 1;
                    if (n + writer) % 3 == 0 {
                        reservation.release();
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
    assert_eq!(
        (quota.lease(false).available, quota.lease(false).reserved),
        (0, 0)
    );
}
