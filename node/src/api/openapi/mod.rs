//! The API's description: an OpenAPI 3.1 document for programs, and a page for people.
//!
//! Both are made once, of what the code itself uses: the bodies' types, the names of parameters,
//! the codes of errors. Operations of keys pass by axum, so all operations are described by hand,
//! and tests compare the descriptions with the routes:
//!
//! | file | contents |
//! | --- | --- |
//! | `operations` | `keys`, `lists`, `batches`, `buckets`, `streams`, `service`, `preflight` |
//! | `watch` | event streams, which are among `keys` and `lists` |
//! | `operation`, `document` | what they have in common |
//! | `parameters`, `response_headers`, `error_responses`, `values` | what they are made of |
//! | `page`, `field_table`, `markup`, `lookup` | the page, which is rendered from the document |
//! | `serve` | the handlers |

mod batches;
mod buckets;
mod document;
mod error_responses;
mod field_table;
mod keys;
mod lists;
mod lookup;
mod markup;
mod operation;
mod operations;
mod page;
mod parameters;
mod preflight;
mod response_headers;
mod serve;
mod service;
mod streams;
#[cfg(test)]
mod tests;
pub(crate) mod values;
mod watch;

pub(crate) use self::serve::{serve_document, serve_page};
