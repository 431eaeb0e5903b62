//! Fuzz target of the metadata of keys.

use serde_json::{Map, Value};

use super::refusal::check_refusal;
use crate::api::errors::ApiError;
use crate::api::http::metadata::{self, MAX_METADATA_BYTES};

/// Converts JSON to the stored form, which must mean the same.
pub fn metadata(data: &[u8]) {
    let Ok(json) = std::str::from_utf8(data) else {
        return;
    };
    let object = serde_json::from_str::<Map<String, Value>>(json).ok();
    match metadata::compact(json) {
        Ok(stored) => {
            let text = String::from_utf8_lossy(&stored);
            assert!(stored.len() <= MAX_METADATA_BYTES);
            assert!(stored.iter().all(|byte| matches!(byte, 0x20..=0x7e)));
            assert_eq!(metadata::header(&stored).is_none(), stored.is_empty());
            if stored.is_empty() {
                assert_eq!(object, Some(Map::new()));
            } else {
                assert_eq!(serde_json::from_str(&text).ok(), object);
                assert_eq!(metadata::compact(&text).ok(), Some(stored.clone()));
            }
        }
        Err(error) => check_refusal(ApiError::invalid_header(error.to_string())),
    }
}
