//! A model of propagation between regions, checked by trying everything that can happen within
//! bounds.
//!
//! It is of the rules, not of the code: one shard, two or three regions, one or two keys. Each
//! region is one state that never loses what it committed. Every rule is a switch: [`holds`] checks
//! that nothing goes wrong with all of them, [`switches`] that without any one something does.
//!
//! | modelled | not modelled |
//! | --- | --- |
//! | PUT, DELETE, expiry, deletion of a bucket | conditions, limits, counts, digests |
//! | hybrid clocks that are behind, ahead and equal | merges held until a clock has caught up |
//! | batches that are split, pipelined, lost, repeated, late and out of order; answers that are lost or late | the stream's handshake and flow control |
//! | leaders that are replaced: their streams begin again at what was committed | Raft in a region, snapshots, crashes |
//! | watermarks, `stable`, clean-up of index and tombstones | the budget for absent regions |
//! | a region that joins in steps, a walk that breaks; a region that is lost, removed, and comes back | several joins, or a join while a region is lost |
//!
//! Clean-up of the index happens at once with what allows it, and heartbeats and answers arrive
//! at once unless the bounds let some be late: later only holds more. `REPORT=1` prints the
//! numbers of states, and the counterexamples.

mod check;
mod holds;
mod joining;
mod leaving;
mod model;
mod network;
mod propagation;
mod properties;
mod record;
mod region;
mod rules;
mod switches;
mod world;
