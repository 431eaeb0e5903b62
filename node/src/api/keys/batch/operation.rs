//! One operation of a batch, as its fields describe it.
//!
//! It is strict: a field that is unknown, or that the operation wouldn't use, is refused, so that
//! none does something else than its client meant. A line without `op` is a put, and so are the
//! lines of bulk writes of Workers KV.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;

use super::fields::{Field, Fields, InvalidOperation, quote};
use crate::api::http::conditions;
use crate::api::http::etag::EntityTags;
use crate::api::http::{expiry, metadata};
use crate::api::keys::parameters::MAX_CONTENT_TYPE_BYTES;
use crate::service::{Expiry, Nanos, Precondition, Touch};

/// Maximum length of a condition, in bytes.
const MAX_CONDITION_BYTES: usize = 1024;

/// Operation of a batch. Key and value aren't checked yet against the limits of the bucket.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// The key.
    pub key: Bytes,
    /// Action on the key.
    pub action: Action,
}

/// Action of an operation on its key.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Writes a value.
    Put(PutAction),
    /// Reads the value.
    Get(Precondition),
    /// Deletes the key.
    Delete(Precondition),
    /// Changes expiry or metadata.
    Touch(Touch),
}

/// A put whose expiry may be left to the bucket.
#[derive(Clone, Debug)]
pub(crate) struct PutAction {
    /// The value.
    pub value: Bytes,
    /// `Content-Type`; empty if none was given.
    pub content_type: Bytes,
    /// Metadata in its stored form.
    pub metadata: Bytes,
    /// Expiry; `None` for that of the bucket.
    pub expiry: Option<Expiry>,
    /// Condition for the write.
    pub precondition: Precondition,
}

/// Kind of an operation: its `op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Get,
    Delete,
    Touch,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 4] = [Self::Put, Self::Get, Self::Delete, Self::Touch];

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the name in requests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Delete => "delete",
            Self::Touch => "touch",
        }
    }

    /// Returns whether operations of this kind have a field.
    pub(crate) fn has_field(self, field: Field) -> bool {
        match field {
            Field::Op | Field::Key | Field::IfMatch | Field::IfNoneMatch => true,
            Field::Value
            | Field::ValueBase64
            | Field::Base64
            | Field::ContentType
            | Field::Expiration
            | Field::ExpirationTtl => self == Self::Put,
            Field::Metadata | Field::Ttl | Field::ExpiresAt | Field::Persist => {
                matches!(self, Self::Put | Self::Touch)
            }
        }
    }
}

impl Operation {
    /// Parses a JSON object. Times of expiry must lie after `now`.
    pub(super) fn parse(json: &[u8], now: Nanos) -> Result<Self, InvalidOperation> {
        let fields = Fields::parse(json)?;
        let kind = parse_kind(&fields)?;
        if let Some(field) = fields.given().find(|field| !kind.has_field(*field)) {
            let (kind, field) = (kind.name(), field.name());
            let message = format!("{field} is no field of a {kind}");
            return Err(InvalidOperation::new(message));
        }
        let Some(key) = fields.text(Field::Key)? else {
            return Err(InvalidOperation::new("key is missing"));
        };
        let precondition = parse_precondition(&fields)?;
        let action = match kind {
            Kind::Put => Action::Put(PutAction {
                value: parse_value(&fields)?,
                content_type: parse_content_type(&fields)?,
                metadata: parse_metadata(&fields)?.unwrap_or_default(),
                expiry: parse_expiry(&fields, now)?,
                precondition,
            }),
            Kind::Get => Action::Get(precondition),
            Kind::Delete => Action::Delete(precondition),
            Kind::Touch => Action::Touch(parse_touch(&fields, now, precondition)?),
        };
        Ok(Self {
            key: into_bytes(key),
            action,
        })
    }
}

/// Copies text out of the body, unless it was copied already because of its escapes.
pub(super) fn into_bytes(text: Cow<'_, str>) -> Bytes {
    Bytes::from(text.into_owned())
}

pub(super) fn parse_kind(fields: &Fields<'_>) -> Result<Kind, InvalidOperation> {
    let Some(name) = fields.text(Field::Op)? else {
        return Ok(Kind::Put);
    };
    Kind::parse(&name).ok_or_else(|| {
        let name = quote(&name);
        InvalidOperation::new(format!(
            "op must be put, get, delete or touch, and not {name}"
        ))
    })
}

pub(super) fn parse_value(fields: &Fields<'_>) -> Result<Bytes, InvalidOperation> {
    let is_base64 = fields.switch(Field::Base64)?;
    let text = fields.text(Field::Value)?;
    let base64 = fields.text(Field::ValueBase64)?;
    match (text, base64) {
        (Some(text), None) if is_base64 => decode_base64(Field::Value, &text),
        (Some(text), None) => Ok(into_bytes(text)),
        (None, Some(text)) if fields.get(Field::Base64).is_none() => {
            decode_base64(Field::ValueBase64, &text)
        }
        (None, Some(_)) => Err(InvalidOperation::new(
            "base64 belongs to value, and not to value_base64",
        )),
        (None, None) => Err(InvalidOperation::new(
            "a put needs value, a string, or value_base64",
        )),
        (Some(_), Some(_)) => Err(InvalidOperation::new(
            "give value or value_base64, not both of them",
        )),
    }
}

fn decode_base64(field: Field, text: &str) -> Result<Bytes, InvalidOperation> {
    let decoded = STANDARD.decode(text).map(Bytes::from);
    decoded.map_err(|error| {
        let name = field.name();
        InvalidOperation::new(format!(
            "{name} must be base64, with +, / and padding (RFC 4648): {error}"
        ))
    })
}

fn parse_content_type(fields: &Fields<'_>) -> Result<Bytes, InvalidOperation> {
    let Some(text) = fields.text(Field::ContentType)? else {
        return Ok(Bytes::new());
    };
    if text.len() > MAX_CONTENT_TYPE_BYTES || HeaderValue::from_str(&text).is_err() {
        return Err(InvalidOperation::new(format!(
            "content_type must be visible ASCII of at most {MAX_CONTENT_TYPE_BYTES} bytes"
        )));
    }
    Ok(into_bytes(text))
}

/// Parses metadata; `null` is the same as `{}`: none.
pub(super) fn parse_metadata(fields: &Fields<'_>) -> Result<Option<Bytes>, InvalidOperation> {
    let Some(raw) = fields.get(Field::Metadata) else {
        return Ok(None);
    };
    if fields.is_null(Field::Metadata) {
        return Ok(Some(Bytes::new()));
    }
    let stored = metadata::compact(raw.get());
    let stored = stored.map_err(|error| InvalidOperation::new(error.to_string()))?;
    Ok(Some(stored))
}

/// Parses the expiry; `None` if none is named. `"expires_at":null` is the same as `persist`.
pub(super) fn parse_expiry(
    fields: &Fields<'_>,
    now: Nanos,
) -> Result<Option<Expiry>, InvalidOperation> {
    let ttl = first_of(
        (Field::Ttl, fields.seconds(Field::Ttl, true)?),
        (
            Field::ExpirationTtl,
            fields.seconds(Field::ExpirationTtl, false)?,
        ),
    )?;
    let is_never = fields.is_null(Field::ExpiresAt);
    let expires_at = if is_never {
        None
    } else {
        fields.seconds(Field::ExpiresAt, true)?
    };
    let expires_at = first_of(
        (Field::ExpiresAt, expires_at),
        (Field::Expiration, fields.seconds(Field::Expiration, false)?),
    )?;
    let persist = fields.switch(Field::Persist)? || is_never;
    expiry::requested(
        ttl.as_deref(),
        expires_at.as_deref(),
        persist.then_some("true"),
        now,
    )
    .map_err(|error| InvalidOperation::new(error.to_string()))
}

/// Returns the value of the one of two fields that is given, of which one is the other's name in
/// Workers KV.
fn first_of<T>(
    (field, value): (Field, Option<T>),
    (other, other_value): (Field, Option<T>),
) -> Result<Option<T>, InvalidOperation> {
    if value.is_some() && other_value.is_some() {
        let (field, other) = (field.name(), other.name());
        let message = format!("give {field} or {other}, not both of them");
        return Err(InvalidOperation::new(message));
    }
    Ok(value.or(other_value))
}

fn parse_touch(
    fields: &Fields<'_>,
    now: Nanos,
    precondition: Precondition,
) -> Result<Touch, InvalidOperation> {
    let touch = Touch {
        expiry: parse_expiry(fields, now)?,
        metadata: parse_metadata(fields)?,
        precondition,
    };
    if touch.expiry.is_none() && touch.metadata.is_none() {
        return Err(InvalidOperation::new(
            "a touch needs ttl, expires_at, persist or metadata",
        ));
    }
    Ok(touch)
}

fn parse_precondition(fields: &Fields<'_>) -> Result<Precondition, InvalidOperation> {
    let if_match = parse_tags(fields, Field::IfMatch)?;
    let if_none_match = parse_tags(fields, Field::IfNoneMatch)?;
    let both = || InvalidOperation::new("give if_match or if_none_match, not both of them");
    conditions::precondition_of(if_match.as_ref(), if_none_match.as_ref()).ok_or_else(both)
}

/// Parses a condition: `*`, or one or more ETags as in a header; a single one needs no quotes.
fn parse_tags(fields: &Fields<'_>, field: Field) -> Result<Option<EntityTags>, InvalidOperation> {
    let Some(text) = fields.text(field)? else {
        return Ok(None);
    };
    let text = text.trim();
    let is_bare = text != "*" && !text.contains(['"', ',']);
    let quoted = if is_bare {
        format!("\"{text}\"")
    } else {
        text.to_owned()
    };
    let is_valid = (1..=MAX_CONDITION_BYTES).contains(&text.len());
    let tags = EntityTags::parse(std::iter::once(quoted.as_bytes())).filter(|_| is_valid);
    let tags = tags.ok_or_else(|| {
        let name = field.name();
        InvalidOperation::new(format!(
            "{name} must be an ETag, with or without quotes, or *"
        ))
    })?;
    Ok(Some(tags))
}

#[cfg(test)]
#[path = "operation_tests.rs"]
mod tests;
