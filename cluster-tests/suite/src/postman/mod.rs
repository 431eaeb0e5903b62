//! Replays a Postman collection as Postman does, from its own file.
//!
//! Only the features that the CloudKV collection uses are supported. Anything else is an error, so
//! that a collection that grows is never replayed in part only.

mod environment;
mod model;
mod request;
mod script;

pub use environment::Environment;
pub use model::{Collection, Example, Item, Request};
pub use request::send;
pub use script::{Statement, parse};
