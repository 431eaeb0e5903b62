//! Answering end of streams: handles the calls that nodes and routers make.
//!
//! | file | contents |
//! | --- | --- |
//! | `exchange` | calls and replies of one stream, of either protocol |
//! | `grpc_stream` | gRPC streams of other nodes |
//! | `user_stream` | plain frames of users' requests from routers |

mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod grpc_stream;
mod user_stream;

pub use exchange::StreamHandler;
pub use grpc_stream::serve_grpc_stream;
pub use user_stream::{GreetedConnection, UserStream};
