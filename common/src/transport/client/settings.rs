//! Settings of an RPC client.

/// Bounds of an RPC client.
#[derive(Clone, Copy, Debug)]
pub struct RpcClientSettings {
    /// Maximum number of calls that wait for a reply.
    pub max_calls: usize,
    /// Maximum bytes of calls that wait to be sent: the size of the client's
    /// [`ByteBudget`](crate::byte_budget::ByteBudget).
    pub max_queue_bytes: usize,
    /// Maximum bytes of a single message, the same on both sides.
    pub max_message_bytes: usize,
}
