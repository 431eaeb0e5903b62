//! Events of a watched bucket, with all their fields checked.

use serde_json::{Map, Value};

use super::key_version::KeyVersion;
use super::parser::ServerSentEvent;

/// Fields of `put` but `value` and `value_base64`: those of the JSON list of keys.
const PUT_FIELDS: [&str; 7] = [
    "content_type",
    "expires_at",
    "metadata",
    "modified_at",
    "name",
    "size",
    "version",
];

/// An event of a watched bucket.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyEvent {
    /// All that was there, or was missed, has been told.
    Ready {
        /// Region that serves the stream.
        region: String,
    },
    /// A key was written. The fields are those of its entry in the JSON list of keys.
    Put {
        /// The key.
        name: String,
        /// Version that was written.
        version: KeyVersion,
        /// All fields.
        fields: Value,
    },
    /// A key was deleted, or has expired.
    Removed {
        /// The key.
        name: String,
        /// Version of the deletion, or of the key that expired.
        version: KeyVersion,
        /// True if it expired.
        has_expired: bool,
    },
    /// Events may be missing: the client has to list anew.
    Reset {
        /// Reason, in words.
        reason: String,
    },
}

impl KeyEvent {
    /// Decodes an event.
    ///
    /// # Errors
    /// Returns what is wrong with it.
    pub fn decode(event: &ServerSentEvent) -> Result<Self, String> {
        Self::decode_fields(event).map_err(|problem| format!("{problem}: {event:?}"))
    }

    fn decode_fields(event: &ServerSentEvent) -> Result<Self, String> {
        if !event.has_id || event.last_event_id.is_empty() {
            return Err("an event has no id".to_owned());
        }
        let data: Value =
            serde_json::from_str(&event.data).map_err(|error| format!("no JSON: {error}"))?;
        let Value::Object(fields) = &data else {
            return Err("no object".to_owned());
        };
        if event.data.contains('\n') {
            return Err("data is more than one line".to_owned());
        }
        match event.name.as_str() {
            "ready" => Ok(Self::Ready {
                region: only_texts(fields, ["region"])?.concat(),
            }),
            "reset" => Ok(Self::Reset {
                reason: only_texts(fields, ["reason"])?.concat(),
            }),
            "put" => {
                check_put(fields)?;
                Ok(Self::Put {
                    name: text(fields, "name")?,
                    version: version(fields)?,
                    fields: data,
                })
            }
            name @ ("delete" | "expire") => {
                only_texts(fields, ["name", "version"])?;
                Ok(Self::Removed {
                    name: text(fields, "name")?,
                    version: version(fields)?,
                    has_expired: name == "expire",
                })
            }
            _ => Err("unknown type".to_owned()),
        }
    }
}

fn version(fields: &Map<String, Value>) -> Result<KeyVersion, String> {
    let version = KeyVersion::parse(&text(fields, "version")?);
    version.ok_or_else(|| "version has another form".to_owned())
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<String, String> {
    let value = fields.get(name).and_then(Value::as_str);
    let value = value.filter(|value| !value.is_empty()).map(str::to_owned);
    value.ok_or_else(|| format!("no {name}"))
}

/// Checks that there are these fields alone, all of them texts, and returns these.
fn only_texts<const N: usize>(
    fields: &Map<String, Value>,
    names: [&str; N],
) -> Result<Vec<String>, String> {
    if fields.len() != N {
        return Err("other fields".to_owned());
    }
    names.iter().map(|name| text(fields, name)).collect()
}

fn check_put(fields: &Map<String, Value>) -> Result<(), String> {
    let is_value = |name: &str| matches!(name, "value" | "value_base64");
    let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
    names.retain(|name| !is_value(name));
    names.sort_unstable();
    let values = fields.len() - names.len();
    if names != PUT_FIELDS || values > 1 {
        return Err("other fields".to_owned());
    }
    if fields["size"].as_u64().is_none() {
        return Err("size is no number".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "18780000000000ff-2";

    fn decode(name: &str, data: &str) -> Result<KeyEvent, String> {
        KeyEvent::decode(&ServerSentEvent {
            name: name.to_owned(),
            data: data.to_owned(),
            last_event_id: "1".to_owned(),
            has_id: true,
        })
    }

    #[test]
    fn events_are_decoded() {
        let put = format!(
            r#"{{"name":"k","version":"{VERSION}","size":1,"content_type":"t","expires_at":null,
                "modified_at":"m","metadata":null,"value":"v"}}"#
        );
        let put = put.replace('\n', "");
        let fields: Value = serde_json::from_str(&put).unwrap();
        let decoded = decode("put", &put).unwrap();
        let (name, version) = ("k".to_owned(), KeyVersion::parse(VERSION).unwrap());
        assert_eq!(
            decoded,
            KeyEvent::Put {
                name: name.clone(),
                version,
                fields
            }
        );
        let removed = format!(r#"{{"name":"k","version":"{VERSION}"}}"#);
        for (event, has_expired) in [("delete", false), ("expire", true)] {
            let expected = KeyEvent::Removed {
                name: name.clone(),
                version,
                has_expired,
            };
            assert_eq!(decode(event, &removed), Ok(expected));
        }
        let ready = KeyEvent::Ready {
            region: "eu".to_owned(),
        };
        assert_eq!(decode("ready", r#"{"region":"eu"}"#), Ok(ready));
    }

    #[test]
    fn other_forms_are_refused() {
        let wrong = [
            ("ready", "{}"),
            ("ready", r#"{"region":"eu","more":1}"#),
            ("ready", r#"{"region":7}"#),
            ("reset", "text"),
            ("delete", r#"{"name":"k","version":"1-1"}"#),
            ("delete", r#"{"name":"","version":"18780000000000ff-2"}"#),
            ("put", r#"{"name":"k","version":"18780000000000ff-2"}"#),
            ("message", r#"{"region":"eu"}"#),
        ];
        for (name, data) in wrong {
            assert!(decode(name, data).is_err(), "{name} {data}");
        }
        let without_id = ServerSentEvent {
            name: "ready".to_owned(),
            data: r#"{"region":"eu"}"#.to_owned(),
            last_event_id: "1".to_owned(),
            has_id: false,
        };
        assert!(KeyEvent::decode(&without_id).is_err());
    }
}
