//! Tests of the server itself. Requests that need buckets are tested against the real service.

use super::*;

#[test]
fn the_busy_answer_declares_its_length() {
    let text = std::str::from_utf8(BUSY_RESPONSE).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len())),
        "{}",
        body.len()
    );
    assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
}

#[test]
fn errors_of_one_connection_dont_stop_the_others() {
    assert!(is_connection_error(
        &io::ErrorKind::ConnectionAborted.into()
    ));
    assert!(!is_connection_error(&io::Error::from_raw_os_error(24)));
}
