//! Commands on regions.

use cloudkv_proto::v1 as pb;

use super::buckets::Refusal;
use super::state::{MetaState, Response};

/// The longest name, in bytes.
const MAX_NAME: usize = 63;

impl MetaState {
    /// Makes a region known, which joins the others; nothing if there is one of that name.
    pub(super) fn add_region(&mut self, add: &pb::AddRegion) -> Response {
        if self
            .header
            .regions
            .iter()
            .any(|region| region.name == add.name)
        {
            return Ok(());
        }
        if add.name.is_empty() || add.name.len() > MAX_NAME || add.incarnation == 0 {
            return Err(Refusal::Malformed);
        }
        if let Some(other) = self.header.regions.iter().find(|region| region.joining) {
            let region = other.number;
            return Err(Refusal::RegionJoining { region });
        }
        let numbers = self.header.regions.iter().map(|region| region.number);
        let last = numbers.max().ok_or(Refusal::Malformed)?;
        self.header.regions.push(pb::Region {
            number: last + 1,
            name: add.name.clone(),
            incarnation: add.incarnation,
            joining: true,
            founder: add.founder,
        });
        self.header.regions_epoch += 1;
        Ok(())
    }

    /// A region has joined. Its shards' peers stay as they are: so does the epoch.
    pub(super) fn region_joined(&mut self, number: u32) -> Response {
        let mut regions = self.header.regions.iter_mut();
        let region = regions.find(|region| region.number == number);
        region.ok_or(Refusal::Malformed)?.joining = false;
        Ok(())
    }
}
