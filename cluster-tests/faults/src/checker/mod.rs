//! Linearizability checker for the history of one key.
//!
//! A history is linearizable if every operation can be given one instant between its start and its
//! end, all of them different, so that the operations, applied to a register in the order of these
//! instants, have the results that were observed. This is the search of Wing and Gong (1993) with
//! the memoization of Lowe (2017): place the operations one after the other, never one before
//! another that had ended when it began; backtrack where nothing fits; and remember each pair of
//! (placed operations, state) that led nowhere.
//!
//! Every value is written by one operation only, so that a read identifies the write it observed.
//! The search relies on it: see `search`.

mod model;
mod op_set;
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

pub use model::{ABSENT, Precondition, RegisterOp, Value};
pub use search::{SearchBudget, Verdict, check};
