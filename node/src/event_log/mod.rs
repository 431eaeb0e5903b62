//! Logs changes around the node, once each and by names that operators know.
//!
//! | file | events |
//! | --- | --- |
//! | `watcher` | checks for changes |
//! | `ready` | the node is ready for the first time |
//! | `majorities` | groups lose their majority, and get it back |
//! | `leaders` | leadership moves, and why |
//! | `members` | nodes and regions join, leave, and are reached or not |
//! | `catch_up` | this node, another one or a region lags, and has caught up |
//! | `text` | names and times in events |

mod catch_up;
mod leaders;
mod majorities;
mod members;
mod ready;
mod text;
mod watcher;

pub(crate) use text::format_seconds;
pub(crate) use watcher::EventWatcher;
