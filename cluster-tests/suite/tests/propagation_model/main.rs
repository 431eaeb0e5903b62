//! A model of propagation between regions, checked by exploring all states within bounds.
//!
//! It models the rules, not the code: one shard, two or three regions, one or two keys. Each region
//! is one state that never loses a commit. Every rule is a switch: [`all_rules`] checks that all
//! properties hold with all rules, [`missing_rules`] that some property breaks without any one
//! rule.
//!
//! | modelled | not modelled |
//! | --- | --- |
//! | PUT, DELETE, expiry, deletion of a bucket | conditions, limits, counts, digests |
//! | hybrid clocks that are behind, ahead and equal | merges delayed until a clock has caught up |
//! | batches that are split, pipelined, lost, repeated, late and out of order | handshake |
//! | acknowledgements that are lost or late | flow control of the stream |
//! | leader changes: streams restart at the committed position | Raft in a region, crashes |
//! | watermarks, `stable`, clean-up of index and tombstones | the bound on retained changes |
//! | a region that joins in steps, a bulk copy that breaks | several joins |
//! | a region that is lost, removed, and joins again | a join while a region is lost |
//!
//! The index is cleaned up at once with the change that allows it, and heartbeats and answers
//! arrive at once unless the bounds let some be late: a later clean-up only retains more.
//! `REPORT=1` prints the numbers of states, and the counterexamples.

mod all_rules;
mod check;
mod joining;
mod missing_rules;
mod model;
mod network;
mod propagation;
mod properties;
mod record;
mod region;
mod removal;
mod rules;
mod world;
