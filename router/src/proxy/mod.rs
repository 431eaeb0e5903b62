//! Forwarding of a request to a node.
//!
//! | file | contents |
//! | --- | --- |
//! | `handler` | handles each request of a thread: parses, forwards, counts |
//! | `request_head` | region and shard of a request, and its head for a node |
//! | `forwarding_headers` | headers of one connection, or that only trusted proxies may set |
//! | `forward` | chooses the node, and the next one if that fails |
//! | `retry_budget` | bounds retries |
//! | `relay` | the response body on its way to the client |
//! | `refusal` | the router's own error responses |
//! | `metrics`, `settings` | counters and histograms; limits and trusted proxies |

mod forward;
mod forwarding_headers;
mod handler;
mod metrics;
mod refusal;
mod relay;
mod request_head;
mod retry_budget;
mod settings;

pub(crate) use handler::{Proxy, SharedState};
pub(crate) use retry_budget::RetryBudget;
pub(crate) use settings::ProxySettings;
