//! State of a link, which its proxy and the directions of its connections follow.

use super::link_shape::LinkShape;

/// Settings of a running proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkControl {
    pub shape: LinkShape,
    /// Shape without faults, such as the latency between two regions.
    pub baseline: LinkShape,
    /// True while the target listens; otherwise the proxy doesn't either.
    pub is_listening: bool,
}

impl Default for LinkControl {
    fn default() -> Self {
        Self {
            shape: LinkShape::default(),
            baseline: LinkShape::default(),
            is_listening: true,
        }
    }
}
