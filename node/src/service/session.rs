//! Session tokens: what a client has seen, so that another region doesn't show it less.
//!
//! A token is the set of the newest version seen of each region's history of each shard. A read that
//! brings one waits until what it may read has all of that: until the watermark of that region has
//! passed the version. Clients take a token as it is; how it is written says `token`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cloudkv_proto::v1 as pb;

use super::token::{self, Seen};
use crate::meta::Topology;
use crate::shard::ShardHandle;
use crate::types::{Nanos, Version};

/// How often a shard is looked at while a read waits for it.
const LOOK: Duration = Duration::from_millis(2);

/// What a client has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session(BTreeMap<(u32, u64, u16), Nanos>);

/// Why a token is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It isn't one that was given.
    #[error("is no token that this service has given")]
    Malformed,
    /// A region that it speaks of was reset, or removed.
    #[error("is of a region's history that is no more: go on without it")]
    Gone,
}

impl Session {
    /// Reads a token, against the regions that there are.
    pub fn parse(text: &str, topology: &Topology) -> Result<Self, SessionError> {
        let entries = token::decode(text).ok_or(SessionError::Malformed)?;
        let mut seen = BTreeMap::new();
        for it in entries {
            let known = topology.region(it.region).ok_or(SessionError::Gone)?;
            if known.incarnation != it.incarnation {
                return Err(SessionError::Gone);
            }
            seen.insert((it.region, it.incarnation, it.shard), it.time);
        }
        Ok(Self(seen))
    }

    /// Notes a version that was seen in a shard.
    pub fn note(&mut self, shard: u16, version: Version, topology: &Topology) {
        // A region that has left can't be waited for.
        if let Some(region) = topology.region(version.region) {
            let seen = (version.region, region.incarnation, shard);
            let time = self.0.entry(seen).or_default();
            *time = version.time.max(*time);
        }
    }

    /// What has to be there of a shard.
    pub fn of_shard(&self, shard: u16) -> Vec<pb::SeenVersion> {
        let seen = self.0.iter().filter(|((_, _, of), _)| *of == shard);
        seen.map(|((region, incarnation, _), time)| pb::SeenVersion {
            region: *region,
            incarnation: *incarnation,
            time: *time,
        })
        .collect()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.0.iter();
        let seen = seen.map(|((region, incarnation, shard), time)| Seen {
            region: *region,
            incarnation: *incarnation,
            shard: *shard,
            time: *time,
        });
        f.write_str(&token::encode(seen.collect()))
    }
}

/// Waits until a shard has all of what was seen, though not for longer than `within`.
pub(super) async fn caught_up(
    shard: &ShardHandle,
    seen: &[pb::SeenVersion],
    within: Duration,
) -> bool {
    let wait = async {
        while !has_all(shard, seen) {
            tokio::time::sleep(LOOK).await;
        }
    };
    has_all(shard, seen) || tokio::time::timeout(within, wait).await.is_ok()
}

/// What was written here is there when the newest version is; what was written elsewhere, when that
/// region's watermark has passed it.
fn has_all(shard: &ShardHandle, seen: &[pb::SeenVersion]) -> bool {
    let view = shard.view();
    let peering = view.peering().borrow().clone();
    seen.iter().all(|seen| {
        if seen.region == view.region() {
            return view.last_version() >= seen.time;
        }
        let peer = peering.peer(seen.region);
        peer.is_some_and(|peer| peer.incarnation == seen.incarnation && peer.watermark >= seen.time)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_is_a_token() {
        let none = Topology::default();
        for text in [
            "",
            "1",
            "1.2.3",
            "1.2.3.4.5",
            "x.2.3.4",
            "1.2.3.4_",
            "1.2.33333.4",
        ] {
            let parsed = Session::parse(text, &none);
            assert_eq!(parsed, Err(SessionError::Malformed), "{text}");
        }
        let long = "1.2.3.4_".repeat(10_000);
        assert_eq!(Session::parse(&long, &none), Err(SessionError::Malformed));
        assert_eq!(Session::parse("1.2.3.4", &none), Err(SessionError::Gone));
    }

    #[test]
    fn a_token_names_what_has_to_be_there_of_each_shard() {
        let entry = |shard, time| ((2, 0xabc, shard), time);
        let session = Session(BTreeMap::from([entry(1, 77), entry(3, 0xff)]));
        assert_eq!(session.to_string(), "2.abc.1.4d_2.abc.3.ff");
        assert_eq!(session.of_shard(3)[0].time, 0xff);
        assert!(session.of_shard(2).is_empty());
    }
}
