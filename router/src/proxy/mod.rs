//! Forwarding of a request to a node.
//!
//! | file | contents |
//! | --- | --- |
//! | `handler` | handles each request of a thread: parses, forwards, counts |
//! | `request_kind` | kind of a request: a watch, export, import, batch, or any other |
//! | `request_head` | region and shard of a request, and its head for a node |
//! | `forwarding_headers` | headers of one connection, or that only trusted proxies may set |
//! | `forward` | chooses the node, and the next one if that fails |
//! | `retry_budget` | bounds retries |
//! | `relay` | the response body on its way to the client |
//! | `stall_timer` | aborts a response whose node sends nothing for too long |
//! | `event_streams` | event streams that are relayed: their number, and their end |
//! | `refusal` | the router's own error responses |
//! | `metrics`, `settings` | counters and histograms; limits and trusted proxies |

mod event_streams;
mod forward;
mod forwarding_headers;
mod handler;
mod metrics;
mod refusal;
mod relay;
mod request_head;
mod request_kind;
mod retry_budget;
mod settings;
mod stall_timer;

pub(crate) use event_streams::EventStreams;
pub(crate) use handler::{Proxy, SharedState};
pub(crate) use retry_budget::RetryBudget;
pub(crate) use settings::ProxySettings;
