//! Kind of settings that name networks.

use super::kinds::{Describe, Kind};
use crate::network::Network;

/// List of networks; empty: none.
pub struct Networks;

impl Describe for Networks {
    fn placeholder(&self) -> &'static str {
        "ADDRESS[/BITS],..."
    }
    fn expected(&self) -> String {
        "addresses or networks, separated by commas, as in 10.0.0.1,192.168.0.0/16".to_owned()
    }
}

impl Kind for Networks {
    type Value = Vec<Network>;
    fn parse(&self, text: &str) -> Option<Vec<Network>> {
        let parts = text.split(',').map(str::trim);
        let parts = parts.filter(|part| !part.is_empty());
        parts.map(|part| part.parse().ok()).collect()
    }
    fn write(&self, value: &Vec<Network>) -> Option<String> {
        let texts: Vec<String> = value.iter().map(Network::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    }
}
