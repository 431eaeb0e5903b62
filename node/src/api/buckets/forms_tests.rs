//! Forms as clients send them, with correct and wrong headers.

use proptest::prelude::{any, prop_assert_eq, proptest};

use super::*;

const URLENCODED: Option<&str> = Some("application/x-www-form-urlencoded");

/// Parses without a runtime: the whole body is there, so nothing ever waits.
fn parse_body(declared: Option<&str>, body: &[u8]) -> Result<BucketParams, &'static str> {
    let parsing = parse(declared, Bytes::copy_from_slice(body));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(parsing).map_err(|error| error.code())
}

fn params(pairs: &[(&str, &str)]) -> BucketParams {
    let mut params = BucketParams::default();
    for (name, value) in pairs {
        params.set(name, (*value).to_owned()).unwrap();
    }
    params
}

fn multipart_form(boundary: &str, pairs: &[(&str, &str)]) -> String {
    let mut form = String::new();
    for (name, value) in pairs {
        form += &format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
    }
    form + &format!("--{boundary}--\r\n")
}

#[test]
fn postmans_multipart_form_is_declared_as_urlencoded() {
    let comment = "This is a comment to describe what's in my bucket";
    let boundary = "--------------------------735323031399963166993862";
    let body = multipart_form(boundary, &[("comment", comment)]);
    assert_eq!(
        parse_body(URLENCODED, body.as_bytes()),
        Ok(params(&[("comment", comment)]))
    );
}

#[test]
fn formats_are_detected_by_content() {
    let expected = Ok(params(&[("access", "public"), ("comment", "a b")]));
    for declared in [
        None,
        URLENCODED,
        Some("application/json"),
        Some("text/plain"),
    ] {
        let multipart = multipart_form("xYz", &[("access", "public"), ("comment", "a b")]);
        assert_eq!(
            parse_body(declared, multipart.as_bytes()),
            expected,
            "{declared:?}"
        );
        let json = br#" {"access": "public", "comment": "a b", "plan": null, "x": [1]}"#;
        assert_eq!(parse_body(declared, json), expected, "{declared:?}");
    }
    assert_eq!(
        parse_body(URLENCODED, b"access=public&comment=a+b"),
        expected
    );
    assert_eq!(
        parse_body(None, b"comment=a%20b&access=public\r\n"),
        expected
    );
    for empty in ["", "\r\n", "--x--", "--x--\r\n"] {
        assert_eq!(
            parse_body(URLENCODED, empty.as_bytes()),
            Ok(BucketParams::default()),
            "{empty}"
        );
    }
}

#[test]
fn leading_dashes_alone_are_no_multipart_form() {
    assert_eq!(
        parse_body(None, b"--x=1&access=public"),
        Ok(params(&[("access", "public")]))
    );
}

#[test]
fn a_default_ttl_in_json_may_be_a_whole_number_or_null() {
    let parse_ttl = |json: &str| {
        let body = format!("{{\"default_ttl\": {json}, \"plan\": null}}");
        parse_body(None, body.as_bytes())
    };
    for (json, text) in [
        ("60", "60"),
        ("\"1h\"", "1h"),
        ("null", ""),
        ("\"\"", ""),
        // Refused as these texts are.
        ("0", "0"),
        ("-1", "-1"),
        ("18446744073709551615", "18446744073709551615"),
    ] {
        assert_eq!(parse_ttl(json), Ok(params(&[("default_ttl", text)])));
    }
    for json in ["60.5", "60.0", "6e1", "1e30", "true", "[60]", "{}"] {
        assert_eq!(parse_ttl(json), Err("invalid_parameter"), "{json}");
    }
}

#[test]
fn malformed_bodies_are_refused() {
    for body in ["hello", "{", "[1]", "{\"access\": \"public\"} x"] {
        assert_eq!(
            parse_body(None, body.as_bytes()),
            Err("invalid_body"),
            "{body}"
        );
    }
    assert_eq!(
        parse_body(Some("application/json"), b"a=b"),
        Err("invalid_body")
    );
    assert_eq!(parse_body(None, b"\xff=\xff"), Err("invalid_body"));
    assert_eq!(
        parse_body(None, b"{\"access\": 1}"),
        Err("invalid_parameter")
    );
    assert_eq!(
        parse_body(None, b"plan=free&plan=pro"),
        Err("invalid_parameter")
    );
    let repeated = multipart_form("x", &[("plan", "free"), ("plan", "free")]);
    assert_eq!(
        parse_body(None, repeated.as_bytes()),
        Err("invalid_parameter")
    );
    let truncated = multipart_form("x", &[("plan", "free")]);
    assert_eq!(
        parse_body(None, &truncated.as_bytes()[..truncated.len() - 8]),
        Err("invalid_body")
    );
}

proptest! {
    #[test]
    fn multipart_is_read_back(
        boundary in "[-a-zA-Z0-9]{0,60}[a-zA-Z0-9]",
        comment in "[^\u{0}]{0,200}",
    ) {
        let boundary = format!("{boundary}7kQ");
        let pairs = [("access", "protected"), ("comment", comment.as_str()), ("other", "x")];
        let body = multipart_form(&boundary, &pairs);
        prop_assert_eq!(parse_body(URLENCODED, body.as_bytes()), Ok(params(&pairs)));
    }

    #[test]
    fn never_panics(body in any::<Vec<u8>>(), declared in any::<Option<String>>()) {
        let _ = parse_body(declared.as_deref(), &body);
    }

    #[test]
    fn never_panics_on_lookalikes(
        body in "(--|x|\r\n|Content-Disposition: form-data; name=\"plan\"|\\{|\"|=|&){0,12}",
    ) {
        let _ = parse_body(None, body.as_bytes());
    }
}
