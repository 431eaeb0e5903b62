//! The cluster as this node sees it. For now: who the node is.

mod identity;

pub use identity::{Identity, IdentityError, Wanted, replace_file};
