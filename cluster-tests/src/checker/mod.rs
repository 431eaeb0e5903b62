//! Is a history of one key linearizable?
//!
//! It is if every operation can be given one instant between its start and its end, all of them
//! different, so that the operations, taken in the order of these instants, do to a register what
//! they were seen to do. This is the search of Wing and Gong with the memo of Lowe: put the
//! operations in order one after the other, never one before another that had ended when it
//! began; go back where nothing fits; and remember each pair of (operations placed, state) that
//! led nowhere.
//!
//! Every value is written by one operation only, so that a read tells which write it saw. The
//! search leans on it: see `search`.

mod model;
mod places;
mod search;

#[cfg(test)]
mod brute;
#[cfg(test)]
mod generate;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod todc_tests;

pub use model::{ABSENT, Needs, Op, Value};
pub use search::{Budget, Verdict, check};
