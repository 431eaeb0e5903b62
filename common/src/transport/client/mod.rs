//! Calling end of streams: clients that call nodes.
//!
//! | file | contents |
//! | --- | --- |
//! | `call` | a call that waits for its reply, and its errors |
//! | `rpc_client` | the client: a bounded queue to its task |
//! | `connection` | the client's task: connects, sends frames, receives replies |
//! | `pending_calls` | calls that were sent: frames of calls, and their replies |
//! | `codec` | the two protocols: gRPC, or plain frames |
//! | `settings` | bounds of a client |

mod call;
mod codec;
mod connection;
mod pending_calls;
mod rpc_client;
mod settings;

pub use call::{CallError, PendingReply};
pub use codec::{with_keep_alive, without_keep_alive};
pub use rpc_client::RpcClient;
pub use settings::RpcClientSettings;
