//! Lists a bucket, as a client does that watches it without `initial=true`.

use super::bucket_copy::BucketCopy;
use super::options::WatchOptions;
use crate::http::ApiClient;
use crate::response::HttpResponse;

/// Lists the keys that these options select, with their values if the options ask for them.
///
/// # Errors
/// Returns the response that isn't a list; `None` without a response.
pub async fn list_bucket(
    api: &ApiClient,
    options: &WatchOptions,
) -> Result<BucketCopy, Option<Box<HttpResponse>>> {
    let mut copy = BucketCopy::new();
    let mut cursor: Option<String> = None;
    loop {
        let prefix = options.key.as_ref().unwrap_or(&options.prefix);
        let mut parameters = vec![("prefix", prefix.as_str())];
        if options.has_values {
            parameters.push(("values", "true"));
        }
        parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let mut list = api.get(&options.bucket.listing_path()).query(&parameters);
        for (name, value) in &options.headers {
            list = list.header(name, value);
        }
        let page = list.header("accept", "application/json").try_send().await;
        let Ok(page) = page else {
            return Err(None);
        };
        match page.status {
            200 => {}
            // Nothing is selected, or no more.
            404 if page.error_code() == "not_found" => return Ok(copy),
            _ => return Err(Some(Box::new(page))),
        }
        let json = page.json();
        for key in json["keys"].as_array().into_iter().flatten() {
            let name = key["name"].as_str().unwrap_or_default();
            if options.key.as_ref().is_none_or(|only| only == name) {
                copy.insert(name.to_owned(), key.clone());
            }
        }
        cursor = json["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(copy);
        }
    }
}
