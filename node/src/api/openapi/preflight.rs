//! `OPTIONS` of each resource: the preflights of browsers.

use super::operation::{OperationDoc, Tag};
use super::parameters::PREFLIGHT;

/// Returns the description of `OPTIONS` of a resource.
pub(super) fn preflight(id: &'static str, tag: Tag, parameters: &[&'static str]) -> OperationDoc {
    OperationDoc::new(id, tag, "Ask for the methods")
        .description("CORS preflight: allows the methods of the resource, and any headers.")
        .parameters(parameters)
        .parameters(&PREFLIGHT)
        .response(
            204,
            "The methods.",
            &[
                "Allow",
                "Access-Control-Allow-Methods",
                "Access-Control-Allow-Headers",
                "Access-Control-Max-Age",
            ],
            [],
        )
}
