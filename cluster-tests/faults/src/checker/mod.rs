//! Linearizability checker for the history of one key.
//!
//! A history is linearizable if every operation can be given one instant between its start and its
//! end, all of them different, so that the operations, applied to a register in the order of these
//! instants, have the results that were observed. This is the search of Wing and Gong (1993) with
//! the memoization of Lowe (2017): place the operations one after the other, never one before
//! another that had ended when it began; backtrack where nothing fits; and remember each pair of
//! (placed operations, state) that led nowhere.
//!
//! The register holds a value and metadata. Each of them is written by one operation only, so that
//! a read identifies the writes it observed. The search relies on it: see `search`.
//!
//! Operations of one batch overlap, and yet are executed in their order: see [`BatchPosition`].

mod constraints;
mod model;
mod op_set;
mod pending_readers;
mod search;

#[cfg(test)]
mod brute_force;
#[cfg(test)]
mod generate;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod todc_tests;

pub use model::{ABSENT, BatchPosition, Content, Effect, Precondition, RegisterOp, WriteId};
pub use search::{SearchBudget, Verdict, check};
