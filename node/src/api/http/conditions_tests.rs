//! Conditions of reads and writes against one known version.

use super::*;
use crate::api::http::etag;

const VERSION: Version = Version {
    time: 1_574_287_932_500_000_000,
    region: 3,
};
const SAME_SECOND: &str = "Wed, 20 Nov 2019 22:12:12 GMT";
const BEFORE: &str = "Wed, 20 Nov 2019 22:12:11 GMT";

fn headers(lines: &[(&HeaderName, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn read(lines: &[(&HeaderName, &str)]) -> ReadOutcome {
    evaluate_read(&headers(lines), VERSION).unwrap()
}

fn write(lines: &[(&HeaderName, &str)]) -> Result<Precondition, &'static str> {
    parse_precondition(&headers(lines)).map_err(|error| error.code())
}

fn tag() -> String {
    etag::header(VERSION).to_str().unwrap().to_owned()
}

#[test]
fn readers_with_the_current_version_get_304() {
    let weak = format!("\"x\", W/{}", tag());
    assert_eq!(read(&[]), ReadOutcome::SendValue);
    assert_eq!(read(&[(&IF_NONE_MATCH, &tag())]), ReadOutcome::NotModified);
    assert_eq!(read(&[(&IF_NONE_MATCH, &weak)]), ReadOutcome::NotModified);
    assert_eq!(read(&[(&IF_NONE_MATCH, "*")]), ReadOutcome::NotModified);
    assert_eq!(read(&[(&IF_NONE_MATCH, "\"x\"")]), ReadOutcome::SendValue);
    assert_eq!(
        read(&[(&IF_MODIFIED_SINCE, SAME_SECOND)]),
        ReadOutcome::NotModified
    );
    assert_eq!(
        read(&[(&IF_MODIFIED_SINCE, BEFORE)]),
        ReadOutcome::SendValue
    );
    assert_eq!(
        read(&[(&IF_MODIFIED_SINCE, "not a date")]),
        ReadOutcome::SendValue
    );
}

#[test]
fn tags_have_precedence_over_dates() {
    let both = [(&IF_NONE_MATCH, "\"x\""), (&IF_MODIFIED_SINCE, SAME_SECOND)];
    assert_eq!(read(&both), ReadOutcome::SendValue);
    let both = [
        (&IF_MATCH, tag()),
        (&IF_UNMODIFIED_SINCE, BEFORE.to_owned()),
    ];
    assert_eq!(
        read(&both.each_ref().map(|(name, value)| (*name, value.as_str()))),
        ReadOutcome::SendValue
    );
}

#[test]
fn readers_that_require_another_version_get_412() {
    let weak = format!("W/{}", tag());
    assert_eq!(read(&[(&IF_MATCH, &tag())]), ReadOutcome::SendValue);
    assert_eq!(read(&[(&IF_MATCH, "*")]), ReadOutcome::SendValue);
    assert_eq!(
        read(&[(&IF_MATCH, "\"x\"")]),
        ReadOutcome::PreconditionFailed
    );
    assert_eq!(read(&[(&IF_MATCH, &weak)]), ReadOutcome::PreconditionFailed);
    assert_eq!(
        read(&[(&IF_UNMODIFIED_SINCE, BEFORE)]),
        ReadOutcome::PreconditionFailed
    );
    assert_eq!(
        read(&[(&IF_UNMODIFIED_SINCE, SAME_SECOND)]),
        ReadOutcome::SendValue
    );
}

#[test]
fn writes_have_one_condition() {
    let weak = format!("W/{}", tag());
    assert_eq!(write(&[]), Ok(Precondition::None));
    assert_eq!(write(&[(&IF_MATCH, "*")]), Ok(Precondition::Exists));
    assert_eq!(write(&[(&IF_NONE_MATCH, "*")]), Ok(Precondition::Absent));
    assert_eq!(
        write(&[(&IF_MATCH, &tag())]),
        Ok(Precondition::Versions(vec![VERSION]))
    );
    assert_eq!(
        write(&[(&IF_MATCH, &weak)]),
        Ok(Precondition::Versions(vec![]))
    );
    assert_eq!(
        write(&[(&IF_NONE_MATCH, &weak)]),
        Ok(Precondition::NotVersions(vec![VERSION]))
    );
    assert_eq!(
        write(&[(&IF_MATCH, "*"), (&IF_NONE_MATCH, "*")]),
        Err("invalid_header")
    );
    assert_eq!(
        write(&[(&IF_UNMODIFIED_SINCE, BEFORE)]),
        Err("invalid_header")
    );
}

#[test]
fn malformed_conditions_are_refused() {
    assert_eq!(write(&[(&IF_MATCH, "abc")]), Err("invalid_header"));
    assert_eq!(write(&[(&IF_NONE_MATCH, "")]), Err("invalid_header"));
    let error = evaluate_read(&headers(&[(&IF_NONE_MATCH, "abc")]), VERSION).unwrap_err();
    assert_eq!(error.code(), "invalid_header");
}
