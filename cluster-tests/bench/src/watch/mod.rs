//! `watch`: measures how long events take to reach those who watch a bucket, and what they cost.
//!
//! Many watchers at a low rate of writes, and one at a high rate, in a region of three nodes; all
//! watchers are at one node, each on a connection of its own, as a browser's are. A delay is the
//! time from just before a write's request is sent until its event has arrived: both are times of
//! this process, which writes and watches. The same writes without watchers tell what the events
//! cost beyond them.

mod args;
mod event_scanner;
mod phase;
mod report;
mod run;
mod watchers;

pub(crate) use args::Args;
pub(crate) use run::run;
