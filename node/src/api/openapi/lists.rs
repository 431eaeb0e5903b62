//! Lists of keys.

use serde_json::json;
use utoipa::openapi::HttpMethod;

use super::document::Document;
use super::keys::{ACCESS_ERRORS, KEY_ERRORS, PATH_ERRORS};
use super::operation::{ApiKeyUse, OperationDoc, Tag, json_content, schema_ref, text_content};
use super::parameters::{BUCKET, WATCH};
use super::preflight::preflight;
use super::watch::events;
use crate::api::error_code::ErrorCode;
use crate::api::keys::{LIST_PARAMETERS, ListBody};

/// Description of a list, and of a watch.
const DESCRIPTION: &str = "\
    Lists keys in the order of their bytes, in pages. Text has a name on each line, and \
    no newline after the last; JSON has all that is known of a key. `start` and `end` \
    bound the range in either direction, and `limit` counts keys and prefixes together.\
    \n\n\
    An empty page isn't the end: only `list_complete` is, or that there is no `Link`. \
    Where nothing matches, the answer is 404, unless a `cursor` came. A cursor belongs to \
    its query: only `limit` and `values` may differ. An answer with values is bounded in \
    bytes, so it may have fewer entries than `limit`.\n\n\
    With `Accept: text/event-stream` the answer is a stream of the changes of all keys, or \
    of those with the `prefix`: a **watch**. It takes `prefix`, `initial`, `values` and \
    `since`, and no other parameter. The events are:\n\n\
    - `ready`: all that was there, or was missed, has come; what follows is new.\n\
    - `put`: a key was written. The data are those of a list.\n\
    - `delete` and `expire`: a key was deleted, or has expired. The data are its `name` \
    and `version`.\n\
    - `reset`: changes may be missing. With `initial=true`, forget all keys: what there is \
    follows. Otherwise list them anew, and go on with the stream.\n\n\
    Of one key, events come in the order of its versions. What hinders a watch only for \
    the moment isn't an error, but a stream that ends, with `retry` and a comment.";

/// Path of a bucket's keys.
pub(super) const PATH: &str = "/kv/{bucket}";

/// Adds the operations.
pub(super) fn describe(document: &mut Document) {
    document.add_schema::<ListBody<'_>>();
    document.add(PATH, HttpMethod::Get, list());
    document.add(PATH, HttpMethod::Head, list().renamed("headKeys"));
    let options = preflight("optionsKeys", Tag::ListsAndBatches, &[BUCKET]);
    document.add(PATH, HttpMethod::Options, options.errors(&PATH_ERRORS));
}

fn list() -> OperationDoc {
    let names = text_content("text/plain", "fruit/apple\nfruit/banana");
    let body = json!({
        "keys": [{
            "name": "fruit/apple",
            "size": 5,
            "version": "18ead8c75626a60c-1",
            "modified_at": "2026-11-24T02:02:31.992752Z",
            "expires_at": null,
            "content_type": "text/plain",
            "metadata": {"color": "red"},
        }],
        "prefixes": ["fruit/dried/"],
        "list_complete": false,
        "cursor": "AQECAwQFBgcIAWZydWl0L2RyaWVkLw",
    });
    OperationDoc::new("listKeys", Tag::ListsAndBatches, "List keys")
        .description(DESCRIPTION)
        .api_key(ApiKeyUse::Optional)
        .parameters(&[BUCKET])
        .parameters(&LIST_PARAMETERS)
        .parameters(&WATCH)
        .response(
            200,
            "A page of the list, in the form that `Accept` prefers; text if it prefers neither. Or \
             an event stream.",
            &["Link", "Cache-Control", "Vary", "X-Content-Type-Options"],
            [
                names,
                json_content(schema_ref::<ListBody<'_>>(), body),
                events(),
            ],
        )
        .errors(&PATH_ERRORS)
        .errors(&ACCESS_ERRORS)
        .errors(&KEY_ERRORS)
        .errors(&[
            ErrorCode::InvalidCursor,
            ErrorCode::InvalidResumeToken,
            ErrorCode::NotFound,
            ErrorCode::Upgrading,
        ])
        .sample("curl -i \"$API/kv/$BUCKET?prefix=fruit/&limit=2\"")
        .sample("curl \"$API/kv/$BUCKET?delimiter=/&values=true\" -H 'accept: application/json'")
        .sample(
            "curl -N \"$API/kv/$BUCKET?prefix=fruit/&initial=true\" \
             -H 'accept: text/event-stream'",
        )
}
