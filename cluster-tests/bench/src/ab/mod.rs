//! `ab`: measures reads and writes with an older build of the node and with this one, alternately
//! in one run, in regions of three nodes.
//!
//! Each round starts a region of the one build and then one of the other, with new data, so that
//! only one runs at a time. Ratios are taken within a round, where both builds met the same
//! machine; their spread over the rounds tells what differs by chance. With the same build twice,
//! that is all there is.

mod args;
mod report;
mod run;

pub(crate) use args::Args;
pub(crate) use run::run;
