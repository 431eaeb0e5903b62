//! All tests of the API once more, through a router: what users see must be the same.

#[path = "api_access.rs"]
mod api_access;
#[path = "api_bucket_create.rs"]
mod api_bucket_create;
#[path = "api_bucket_manage.rs"]
mod api_bucket_manage;
#[path = "api_conditional.rs"]
mod api_conditional;
#[path = "api_cors.rs"]
mod api_cors;
#[path = "api_counters.rs"]
mod api_counters;
#[path = "api_export.rs"]
mod api_export;
#[path = "api_http.rs"]
mod api_http;
#[path = "api_import.rs"]
mod api_import;
#[path = "api_key_names.rs"]
mod api_key_names;
#[path = "api_keys.rs"]
mod api_keys;
#[path = "api_limits.rs"]
mod api_limits;
#[path = "api_list.rs"]
mod api_list;
#[path = "api_ttl.rs"]
mod api_ttl;
#[path = "api_value_size.rs"]
mod api_value_size;
#[path = "api_watch.rs"]
mod api_watch;
#[path = "api_watch_requests.rs"]
mod api_watch_requests;
#[path = "api_watch_resume.rs"]
mod api_watch_resume;
#[path = "collection.rs"]
mod collection;
