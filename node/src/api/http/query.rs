//! Query strings and urlencoded forms, whose parameters are read by name.
//!
//! Only requested parameters are decoded: most requests for keys have no query, the others one
//! parameter. A repeated name is refused, since proxies and servers differ in which of the two they
//! use. Unknown names are ignored by reads, since browsers and proxies add their own, and refused
//! by writes, which would otherwise do something else than the client meant.

use std::borrow::Cow;

use crate::api::errors::ApiError;
use cloudkv_common::server::percent;

/// Text behind a `?`, or of an urlencoded form.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// Wraps the raw query of a request; `None`: there is none.
    pub(crate) fn new(text: Option<&'a str>) -> Self {
        Self(text.unwrap_or_default())
    }

    /// Returns whether there are no parameters.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value of `name`, decoded; `None` if it isn't given.
    pub(crate) fn get(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, ApiError> {
        let mut value = None;
        for pair in self.0.split('&').filter(|pair| !pair.is_empty()) {
            let (raw_name, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
            if !is_name(raw_name, name) {
                continue;
            }
            if value.is_some() {
                return Err(ApiError::repeated_parameter(name));
            }
            value = Some(raw_value);
        }
        value
            .map(|raw| decode_text(raw).ok_or_else(|| ApiError::parameter_encoding(name)))
            .transpose()
    }

    /// Returns the value of `name`, decoded; `None` if it isn't given, or is empty. Refuses one of
    /// more than `max` bytes.
    pub(crate) fn get_text(
        &self,
        name: &'static str,
        max: usize,
    ) -> Result<Option<Cow<'a, str>>, ApiError> {
        let text = self.get(name)?.filter(|text| !text.is_empty());
        if text.as_ref().map_or(0, |text| text.len()) > max {
            return Err(ApiError::invalid_parameter(format!(
                "{name} must have at most {max} bytes"
            )));
        }
        Ok(text)
    }

    /// Returns the value of `name` that is true or false, which is the default.
    pub(crate) fn get_flag(&self, name: &'static str) -> Result<bool, ApiError> {
        match self.get(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::invalid_parameter(format!(
                "{name} must be true or false"
            ))),
        }
    }

    /// Refuses parameters with other names than the known ones.
    pub(crate) fn refuse_unknown(&self, known: &[&'static str]) -> Result<(), ApiError> {
        for pair in self.0.split('&').filter(|pair| !pair.is_empty()) {
            let (raw, _) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.iter().any(|name| is_name(raw, name)) {
                let name = decode_text(raw).unwrap_or(Cow::Borrowed(raw));
                return Err(ApiError::unknown_parameter(&name, known));
            }
        }
        Ok(())
    }
}

fn is_name(raw: &str, name: &str) -> bool {
    raw == name
        || raw.contains('%')
            && percent::decode_form(raw).is_ok_and(|decoded| decoded.as_ref() == name.as_bytes())
}

/// Decodes a value; `None` if it isn't percent-encoded UTF-8.
fn decode_text(raw: &str) -> Option<Cow<'_, str>> {
    match percent::decode_form(raw).ok()? {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    fn get(text: &str, name: &'static str) -> Result<Option<String>, &'static str> {
        match Query::new(Some(text)).get(name) {
            Ok(value) => Ok(value.map(Cow::into_owned)),
            Err(error) => Err(error.code()),
        }
    }

    #[test]
    fn values_are_found_by_name_and_decoded() {
        assert_eq!(
            get("prefix=a+b%2Fc&limit=3", "prefix"),
            Ok(Some("a b/c".into()))
        );
        assert_eq!(get("prefix=a&limit=3", "limit"), Ok(Some("3".into())));
        assert_eq!(get("prefix", "prefix"), Ok(Some(String::new())));
        assert_eq!(get("%74tl=5s", "ttl"), Ok(Some("5s".into())));
        assert_eq!(get("a=b=c", "a"), Ok(Some("b=c".into())));
        assert_eq!(get("", "ttl"), Ok(None));
    }

    #[test]
    fn repeated_names_are_refused_and_unknown_names_ignored() {
        assert_eq!(get("ttl=1&ttl=1", "ttl"), Err("invalid_parameter"));
        assert_eq!(get("ttl=%zz", "ttl"), Err("invalid_parameter"));
        assert_eq!(get("ttl=%ff", "ttl"), Err("invalid_parameter"));
        assert_eq!(get("x=%zz&x=1&ttl=5", "ttl"), Ok(Some("5".into())));
    }

    #[test]
    fn texts_are_bounded_and_empty_ones_are_not_given() {
        let text = |text, max| {
            let text = Query::new(Some(text)).get_text("prefix", max);
            text.map(|text| text.map(Cow::into_owned))
                .map_err(|error| error.into_message())
        };
        assert_eq!(text("", 3), Ok(None));
        assert_eq!(text("prefix=", 3), Ok(None));
        assert_eq!(text("prefix=%c3%bc+", 3), Ok(Some("ü ".into())));
        let expected = "prefix must have at most 3 bytes";
        assert_eq!(text("prefix=abcd", 3), Err(expected.into()));
    }

    #[test]
    fn flags_are_true_or_false() {
        let flag = |text| Query::new(Some(text)).get_flag("values").ok();
        assert_eq!(flag(""), Some(false));
        assert_eq!(flag("values=false"), Some(false));
        assert_eq!(flag("values=true"), Some(true));
        for text in ["values", "values=", "values=1", "values=True"] {
            assert_eq!(flag(text), None, "{text}");
        }
    }

    #[test]
    fn writes_refuse_unknown_names() {
        let only = |text, known: &[&'static str]| Query::new(Some(text)).refuse_unknown(known);
        for text in ["", "&&", "ttl", "ttl=5", "%74tl=5&ttl=5"] {
            assert!(only(text, &["ttl"]).is_ok(), "{text}");
        }
        for text in ["ttl=5&tll=6", "expiry=60", "=1", "%zz"] {
            assert_eq!(
                only(text, &["ttl"]).unwrap_err().code(),
                "invalid_parameter"
            );
        }
        assert!(only("x=1", &[]).is_err());
    }

    proptest! {
        #[test]
        fn agrees_with_form_urlencoded(value in any::<String>(), other in any::<String>()) {
            let text = form_urlencoded::Serializer::new(String::new())
                .append_pair("x", &other)
                .append_pair("name", &value)
                .finish();
            prop_assert_eq!(get(&text, "name"), Ok(Some(value)));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = get(&text, "ttl");
        }
    }
}
