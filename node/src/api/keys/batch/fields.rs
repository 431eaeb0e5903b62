//! Fields of one operation, by name, whose values are not validated yet.

use std::borrow::Cow;
use std::fmt;

use cloudkv_common::names::nearest_name;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Name of the version in the lines of exports and imports.
const VERSION: &str = "version";
/// Maximum length of a part of a request that a message repeats, in characters.
const MAX_QUOTED_CHARS: usize = 64;
/// Maximum length of a parser's message, which may quote a part of the request, in characters.
const MAX_MESSAGE_CHARS: usize = 256;

/// Field of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Op,
    Key,
    Value,
    ValueBase64,
    /// The value is base64, as in bulk writes of Workers KV, which have the expirations, too.
    Base64,
    ContentType,
    Metadata,
    Ttl,
    ExpiresAt,
    Persist,
    Expiration,
    ExpirationTtl,
    IfMatch,
    IfNoneMatch,
}

impl Field {
    /// All fields.
    pub(crate) const ALL: [Self; 14] = [
        Self::Op,
        Self::Key,
        Self::Value,
        Self::ValueBase64,
        Self::Base64,
        Self::ContentType,
        Self::Metadata,
        Self::Ttl,
        Self::ExpiresAt,
        Self::Persist,
        Self::Expiration,
        Self::ExpirationTtl,
        Self::IfMatch,
        Self::IfNoneMatch,
    ];

    /// Returns the name in requests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Op => "op",
            Self::Key => "key",
            Self::Value => "value",
            Self::ValueBase64 => "value_base64",
            Self::Base64 => "base64",
            Self::ContentType => "content_type",
            Self::Metadata => "metadata",
            Self::Ttl => "ttl",
            Self::ExpiresAt => "expires_at",
            Self::Persist => "persist",
            Self::Expiration => "expiration",
            Self::ExpirationTtl => "expiration_ttl",
            Self::IfMatch => "if_match",
            Self::IfNoneMatch => "if_none_match",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}

/// Reason why an operation is malformed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct InvalidOperation(Cow<'static, str>);

impl InvalidOperation {
    pub(super) fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }
}

impl From<serde_json::Error> for InvalidOperation {
    fn from(error: serde_json::Error) -> Self {
        let text = error.to_string();
        let position = format!(" at line {} column {}", error.line(), error.column());
        let reason = text.strip_suffix(&position).unwrap_or(&text);
        let mut reason: String = reason.chars().take(MAX_MESSAGE_CHARS).collect();
        if error.line() == 1 && (error.is_syntax() || error.is_eof()) {
            reason += &format!(", at its byte {}", error.column());
        }
        Self::new(reason)
    }
}

/// Shortens a part of a request for a message.
pub(super) fn quote(text: &str) -> String {
    let quoted: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    format!("`{quoted}`")
}

/// Fields of an operation.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>([Option<&'a RawValue>; Field::ALL.len()]);

impl<'a> Fields<'a> {
    /// Parses a JSON object.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, InvalidOperation> {
        Ok(serde_json::from_slice(json)?)
    }

    /// Returns the fields that are given.
    pub(super) fn given(&self) -> impl Iterator<Item = Field> {
        Field::ALL
            .into_iter()
            .filter(|field| self.get(*field).is_some())
    }

    /// Returns a field's value as JSON.
    pub(super) fn get(&self, field: Field) -> Option<&'a RawValue> {
        self.0[field as usize]
    }

    /// Returns whether a field is given as `null`.
    pub(super) fn is_null(&self, field: Field) -> bool {
        self.get(field).is_some_and(|raw| raw.get() == "null")
    }

    /// Returns a field that must be a string.
    pub(super) fn text(&self, field: Field) -> Result<Option<Cow<'a, str>>, InvalidOperation> {
        let text = self.get(field).map(|raw| parse_text(field.name(), raw));
        text.transpose()
    }

    /// Returns the text of a field that must be a number of seconds or, if `or_text`, a string.
    pub(super) fn seconds(
        &self,
        field: Field,
        or_text: bool,
    ) -> Result<Option<Cow<'a, str>>, InvalidOperation> {
        let Some(raw) = self.get(field) else {
            return Ok(None);
        };
        let is_number = |first: &u8| first.is_ascii_digit() || *first == b'-';
        if raw.get().as_bytes().first().is_some_and(is_number) {
            return Ok(Some(Cow::Borrowed(raw.get())));
        }
        if or_text && raw.get().starts_with('"') {
            return parse_text(field.name(), raw).map(Some);
        }
        let or_text = if or_text { ", or a string" } else { "" };
        Err(InvalidOperation::new(format!(
            "{} must be a number of seconds{or_text}",
            field.name()
        )))
    }

    /// Returns a field that must be `true` or `false`; false if it isn't given.
    pub(super) fn switch(&self, field: Field) -> Result<bool, InvalidOperation> {
        match self.get(field).map(RawValue::get) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(InvalidOperation::new(format!(
                "{} must be true or false",
                field.name()
            ))),
        }
    }
}

/// Fields of a line of an import: those of an operation, and the version that an export names.
#[derive(Debug, Default)]
pub(super) struct VersionedFields<'a> {
    pub fields: Fields<'a>,
    /// The version as JSON.
    pub version: Option<&'a RawValue>,
}

impl<'a> VersionedFields<'a> {
    /// Parses a JSON object.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, InvalidOperation> {
        Ok(serde_json::from_slice(json)?)
    }

    /// Returns the text of the version.
    pub(super) fn version_text(&self) -> Result<Option<Cow<'a, str>>, InvalidOperation> {
        let text = self.version.map(|raw| parse_text(VERSION, raw));
        text.transpose()
    }
}

/// Text that is borrowed from the JSON unless it has escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn parse_text<'a>(name: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, InvalidOperation> {
    if !raw.get().starts_with('"') {
        return Err(InvalidOperation::new(format!("{name} must be a string")));
    }
    match serde_json::from_str(raw.get()) {
        Ok(Text(text)) => Ok(text),
        Err(error) => Err(InvalidOperation::new(format!(
            "{name} must be a string: {}",
            InvalidOperation::from(error)
        ))),
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an operation as a JSON object, such as {\"key\":\"k\",\"value\":\"v\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(field) = map.next_key::<Field>()? {
            set_once(&mut fields.0[field as usize], field.name(), &mut map)?;
        }
        Ok(fields)
    }
}

/// Sets a field to the value that comes next. Refuses a second one.
fn set_once<'de, A: MapAccess<'de>>(
    slot: &mut Option<&'de RawValue>,
    name: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::custom(format_args!("{name} is given twice")));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

impl<'de: 'a, 'a> Deserialize<'de> for VersionedFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(VersionedFieldsVisitor)
    }
}

struct VersionedFieldsVisitor;

impl<'de> Visitor<'de> for VersionedFieldsVisitor {
    type Value = VersionedFields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FieldsVisitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VersionedFields<'de>, A::Error> {
        let mut versioned = VersionedFields::default();
        while let Some(VersionedField(field)) = map.next_key::<VersionedField>()? {
            match field {
                Some(field) => {
                    let slot = &mut versioned.fields.0[field as usize];
                    set_once(slot, field.name(), &mut map)?;
                }
                None => set_once(&mut versioned.version, VERSION, &mut map)?,
            }
        }
        Ok(versioned)
    }
}

/// Field of an operation; `None` is the version.
struct VersionedField(Option<Field>);

impl<'de> Deserialize<'de> for VersionedField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(VersionedFieldVisitor)
    }
}

struct VersionedFieldVisitor;

impl Visitor<'_> for VersionedFieldVisitor {
    type Value = VersionedField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FieldVisitor.expecting(f)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<VersionedField, E> {
        if name == VERSION {
            return Ok(VersionedField(None));
        }
        FieldVisitor
            .visit_str(name)
            .map(|field| VersionedField(Some(field)))
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FieldVisitor)
    }
}

struct FieldVisitor;

impl Visitor<'_> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Field, E> {
        Field::parse(name).ok_or_else(|| E::custom(unknown_field(name)))
    }
}

fn unknown_field(name: &str) -> String {
    let names = Field::ALL.map(Field::name);
    match nearest_name(name, names) {
        Some(nearest) => format!(
            "no field is called {}: did you mean {nearest}?",
            quote(name)
        ),
        None => format!(
            "no field is called {}: there are {}",
            quote(name),
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_index_their_values() {
        for (index, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!(field as usize, index);
            assert_eq!(Field::parse(field.name()), Some(field));
        }
    }

    #[test]
    fn only_lines_of_imports_have_a_version() {
        let line = br#"{"key":"k","version":"v\n","value":""}"#;
        let error = Fields::parse(line).unwrap_err().to_string();
        assert!(error.starts_with("no field is called `version`"), "{error}");
        let versioned = VersionedFields::parse(line).unwrap();
        assert_eq!(versioned.version_text().unwrap().unwrap(), "v\n");
        let given: Vec<Field> = versioned.fields.given().collect();
        assert_eq!(given, [Field::Key, Field::Value]);
        let without = VersionedFields::parse(br#"{"key":"k"}"#).unwrap();
        assert_eq!(without.version_text(), Ok(None));
        let error = |line: &str| {
            let parsed = VersionedFields::parse(line.as_bytes());
            let text = parsed.and_then(|line| line.version_text().map(|_| ()));
            text.unwrap_err().to_string()
        };
        assert_eq!(error(r#"{"version":1}"#), "version must be a string");
        let twice = error(r#"{"version":"","version":""}"#);
        assert_eq!(twice, "version is given twice");
        assert_eq!(error(r#"{"key":1,"key":2}"#), "key is given twice");
        let unknown = error(r#"{"kee":"k"}"#);
        assert_eq!(unknown, "no field is called `kee`: did you mean key?");
    }

    #[test]
    fn texts_are_borrowed_unless_they_have_escapes() {
        let fields = Fields::parse(br#"{"key":"plain","value":"a\nb","ttl":5}"#).unwrap();
        assert!(matches!(
            fields.text(Field::Key),
            Ok(Some(Cow::Borrowed("plain")))
        ));
        assert_eq!(fields.text(Field::Value).unwrap().unwrap(), "a\nb");
        assert_eq!(fields.text(Field::Op), Ok(None));
        assert_eq!(
            fields.text(Field::Ttl).unwrap_err().to_string(),
            "ttl must be a string"
        );
        let given: Vec<Field> = fields.given().collect();
        assert_eq!(given, [Field::Key, Field::Value, Field::Ttl]);
    }

    #[test]
    fn messages_are_bounded() {
        let long = "x".repeat(1 << 16);
        for json in [format!("{{\"{long}\":1}}"), format!("\"{long}\"")] {
            let error = Fields::parse(json.as_bytes()).unwrap_err();
            assert!(error.to_string().len() < 400, "{error}");
        }
    }
}
