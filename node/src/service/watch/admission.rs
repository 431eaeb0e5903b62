//! Bounds the number of streams: of the node, of each bucket, and of each client address.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use cloudkv_common::server::network_of;
use parking_lot::Mutex;

use super::end::WatchEnd;
use super::settings::WatchSettings;
use crate::types::BucketId;

/// Numbers of streams, and their bounds.
#[derive(Debug)]
pub(super) struct Admission {
    max_watchers: usize,
    max_bucket_watchers: usize,
    max_address_watchers: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    watchers: usize,
    buckets: HashMap<BucketId, usize>,
    addresses: HashMap<IpAddr, usize>,
}

/// Permit for a stream, which counts until this is dropped.
#[derive(Debug)]
pub(super) struct WatchPermit {
    admission: Arc<Admission>,
    bucket: BucketId,
    address: Option<IpAddr>,
}

impl Admission {
    pub(super) fn new(settings: &WatchSettings) -> Self {
        Self {
            max_watchers: settings.max_watchers,
            max_bucket_watchers: settings.max_bucket_watchers,
            max_address_watchers: settings.max_address_watchers,
            counts: Mutex::default(),
        }
    }

    /// Admits a stream, unless there are too many.
    pub(super) fn admit(
        self: &Arc<Self>,
        bucket: &BucketId,
        client: Option<IpAddr>,
    ) -> Result<WatchPermit, WatchEnd> {
        let address = client.map(network_of);
        let counts = &mut *self.counts.lock();
        let of_bucket = counts.buckets.get(bucket).copied().unwrap_or(0);
        let of_address = address.and_then(|address| counts.addresses.get(&address).copied());
        let of = if counts.watchers >= self.max_watchers {
            Some("node")
        } else if of_bucket >= self.max_bucket_watchers {
            Some("bucket")
        } else if of_address.is_some_and(|watchers| watchers >= self.max_address_watchers) {
            Some("address")
        } else {
            None
        };
        if let Some(of) = of {
            return Err(WatchEnd::TooManyWatchers { of });
        }
        counts.watchers += 1;
        *counts.buckets.entry(*bucket).or_default() += 1;
        if let Some(address) = address {
            *counts.addresses.entry(address).or_default() += 1;
        }
        Ok(WatchPermit {
            admission: self.clone(),
            bucket: *bucket,
            address,
        })
    }

    /// Returns the number of streams, and that of the buckets that they watch.
    pub(super) fn counts(&self) -> (usize, usize) {
        let counts = self.counts.lock();
        (counts.watchers, counts.buckets.len())
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        let counts = &mut *self.admission.counts.lock();
        counts.watchers -= 1;
        subtract_one(&mut counts.buckets, &self.bucket);
        if let Some(address) = &self.address {
            subtract_one(&mut counts.addresses, address);
        }
    }
}

fn subtract_one<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(node: usize, bucket: usize, address: usize) -> Arc<Admission> {
        Arc::new(Admission::new(&WatchSettings {
            max_watchers: node,
            max_bucket_watchers: bucket,
            max_address_watchers: address,
            bucket_buffer_bytes: 0,
            buffer_bytes: 0,
        }))
    }

    fn bucket(number: u8) -> BucketId {
        BucketId::parse(&[&b"aAAAAAAAAAAAA"[..], &[b'A' + number]].concat()).unwrap()
    }

    fn refused(of: &'static str) -> Option<WatchEnd> {
        Some(WatchEnd::TooManyWatchers { of })
    }

    #[test]
    fn each_bound_counts_for_itself_and_permits_are_given_back() {
        let admission = admission(3, 2, 2);
        let address = |text: &str| Some(text.parse().unwrap());
        let first = admission.admit(&bucket(0), address("10.0.0.1")).unwrap();
        let second = admission.admit(&bucket(0), None).unwrap();
        let result = admission.admit(&bucket(0), address("10.0.0.2"));
        assert_eq!(result.err(), refused("bucket"));
        let third = admission.admit(&bucket(1), address("10.0.0.1")).unwrap();
        assert_eq!(admission.counts(), (3, 2));
        let result = admission.admit(&bucket(1), address("10.0.0.2"));
        assert_eq!(result.err(), refused("node"));
        drop(second);
        let result = admission.admit(&bucket(1), address("10.0.0.1"));
        assert_eq!(result.err(), refused("address"));
        drop((first, third));
        assert_eq!(admission.counts(), (0, 0));
        assert!(admission.counts.lock().addresses.is_empty());
    }

    #[test]
    fn an_ipv6_address_counts_by_its_network() {
        let admission = admission(9, 9, 1);
        let address = |text: &str| Some(text.parse().unwrap());
        let _first = admission.admit(&bucket(0), address("2001:db8::1")).unwrap();
        let result = admission.admit(&bucket(0), address("2001:db8::2"));
        assert_eq!(result.err(), refused("address"));
        assert!(
            admission
                .admit(&bucket(0), address("2001:db8:0:1::1"))
                .is_ok()
        );
    }
}
