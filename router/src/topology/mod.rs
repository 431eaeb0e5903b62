//! Where everything is, as far as the nodes tell.
//!
//! | file | what it does |
//! | --- | --- |
//! | `node` | a node: where it is, whether it answers, how far away it is |
//! | `view` | all that a request's way depends on, at one moment |
//! | `reports` | what nodes told, put together into a view; pure |
//! | `choice` | which region the global name stands for; pure |
//! | `follow` | listens to the nodes, and publishes views |
//! | `journal` | what of that the log tells |
//! | `check` | asks each node again and again whether it serves |

mod check;
mod choice;
mod follow;
mod journal;
mod node;
mod reports;
mod view;

pub use choice::{Choice, Sample};
pub use follow::{Follower, FollowerSettings};
pub use node::Node;
pub use reports::Reports;
pub use view::{Asked, RegionView, View};
