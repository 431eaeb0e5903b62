//! Session tokens: what a client has seen, so that another region doesn't show it older data.
//!
//! A token is the set of the newest versions seen of each region's history of each shard. A read
//! with a token waits until the shard has all of these: until the watermark of each region has
//! passed its version. Tokens are opaque to clients; `token` has their text forms.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cloudkv_proto::v1 as pb;

use super::token::{self, TokenEntry};
use crate::meta::Topology;
use crate::shard::ShardHandle;
use crate::types::{Nanos, Version};

/// Interval at which a shard's progress is polled while a read waits for it.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Newest versions that a client has seen, by region, incarnation and shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken(BTreeMap<(u32, u64, u16), Nanos>);

/// Error of parsing a session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The text is no token that this service has issued.
    #[error("is not a token that this service has issued")]
    Malformed,
    /// A region that the token names was reset or removed.
    #[error("names a region that was reset or removed: continue without it")]
    UnknownRegion,
}

impl SessionToken {
    /// Parses a token, and checks that its regions exist in the topology.
    pub fn parse(text: &str, topology: &Topology) -> Result<Self, SessionError> {
        let entries = token::decode(text).ok_or(SessionError::Malformed)?;
        let mut seen = BTreeMap::new();
        for entry in entries {
            let region = topology
                .region(entry.region)
                .ok_or(SessionError::UnknownRegion)?;
            if region.incarnation != entry.incarnation {
                return Err(SessionError::UnknownRegion);
            }
            seen.insert((entry.region, entry.incarnation, entry.shard), entry.time);
        }
        Ok(Self(seen))
    }

    /// Records a version that was seen in a shard.
    pub fn record(&mut self, shard: u16, version: Version, topology: &Topology) {
        // A region that was removed can't be waited for.
        if let Some(region) = topology.region(version.region) {
            let key = (version.region, region.incarnation, shard);
            let time = self.0.entry(key).or_default();
            *time = version.time.max(*time);
        }
    }

    /// Returns the versions of a shard that the client has seen.
    pub fn seen_of_shard(&self, shard: u16) -> Vec<pb::SeenVersion> {
        let seen = self.0.iter().filter(|((_, _, of), _)| *of == shard);
        seen.map(|((region, incarnation, _), time)| pb::SeenVersion {
            region: *region,
            incarnation: *incarnation,
            time: *time,
        })
        .collect()
    }

    /// Returns whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.0.iter();
        let seen = seen.map(|((region, incarnation, shard), time)| TokenEntry {
            region: *region,
            incarnation: *incarnation,
            shard: *shard,
            time: *time,
        });
        f.write_str(&token::encode(seen.collect()))
    }
}

/// Waits until a shard has all versions in `seen`; returns false after `timeout`.
pub(super) async fn wait_until_caught_up(
    shard: &ShardHandle,
    seen: &[pb::SeenVersion],
    timeout: Duration,
) -> bool {
    let wait = async {
        while !is_caught_up(shard, seen) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    is_caught_up(shard, seen) || tokio::time::timeout(timeout, wait).await.is_ok()
}

/// Returns whether a shard has all versions in `seen`. Writes of this region are there once the
/// newest version is; writes of another one, once its watermark has passed them.
fn is_caught_up(shard: &ShardHandle, seen: &[pb::SeenVersion]) -> bool {
    let view = shard.view();
    let replication = view.replication().borrow().clone();
    seen.iter().all(|seen| {
        if seen.region == view.region() {
            return view.last_version() >= seen.time;
        }
        let peer = replication.peer(seen.region);
        peer.is_some_and(|peer| peer.incarnation == seen.incarnation && peer.watermark >= seen.time)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_texts_are_malformed() {
        let no_regions = Topology::default();
        for text in [
            "",
            "1",
            "1.2.3",
            "1.2.3.4.5",
            "x.2.3.4",
            "1.2.3.4_",
            "1.2.33333.4",
        ] {
            let parsed = SessionToken::parse(text, &no_regions);
            assert_eq!(parsed, Err(SessionError::Malformed), "{text}");
        }
        let long = "1.2.3.4_".repeat(10_000);
        let parsed = SessionToken::parse(&long, &no_regions);
        assert_eq!(parsed, Err(SessionError::Malformed));
        let parsed = SessionToken::parse("1.2.3.4", &no_regions);
        assert_eq!(parsed, Err(SessionError::UnknownRegion));
    }

    #[test]
    fn a_token_has_the_versions_of_each_shard() {
        let entry = |shard, time| ((2, 0xabc, shard), time);
        let session = SessionToken(BTreeMap::from([entry(1, 77), entry(3, 0xff)]));
        assert_eq!(session.to_string(), "2.abc.1.4d_2.abc.3.ff");
        assert_eq!(session.seen_of_shard(3)[0].time, 0xff);
        assert!(session.seen_of_shard(2).is_empty());
    }
}
