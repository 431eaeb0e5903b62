//! Replaying a Postman collection as Postman does, from its own file.
//!
//! Only what the CloudKV collection uses is understood. Anything else is an error, so that a
//! collection that grows can't be half replayed without anybody noticing.

mod environment;
mod model;
mod request;
mod script;

pub use environment::Environment;
pub use model::{Collection, Example, Item, Request};
pub use request::send;
pub use script::{Statement, parse};
