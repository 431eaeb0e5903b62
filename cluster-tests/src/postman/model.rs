//! The collection's file format, version 2.0, as far as it is used.

use serde::Deserialize;

/// A collection: folders of requests.
#[derive(Clone, Debug, Deserialize)]
pub struct Collection {
    /// Its folders.
    #[serde(rename = "item")]
    pub folders: Vec<Folder>,
}

impl Collection {
    /// Every request with its name, `Folder/Request`.
    pub fn items(&self) -> Vec<(String, &Item)> {
        let named = |folder: &Folder, item: &Item| format!("{}/{}", folder.name, item.name);
        let folders = self.folders.iter();
        folders
            .flat_map(|f| f.items.iter().map(move |i| (named(f, i), i)))
            .collect()
    }

    /// The request of this name.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn item(&self, name: &str) -> &Item {
        let found = self.items().into_iter().find(|(found, _)| found == name);
        found
            .unwrap_or_else(|| panic!("the collection has no {name}"))
            .1
    }
}

/// A folder of requests.
#[derive(Clone, Debug, Deserialize)]
pub struct Folder {
    /// Its name.
    pub name: String,
    /// Its requests.
    #[serde(rename = "item")]
    pub items: Vec<Item>,
}

/// A request with what is said about its answers.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// What to send.
    pub request: Request,
    /// Scripts to run.
    #[serde(default, rename = "event")]
    pub events: Vec<Event>,
    /// Answers that were recorded.
    #[serde(default, rename = "response")]
    pub examples: Vec<Example>,
}

/// A script and when it runs.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// `test`: after the answer.
    pub listen: String,
    /// The script.
    pub script: Script,
}

/// A script's lines.
#[derive(Clone, Debug, Deserialize)]
pub struct Script {
    /// The lines.
    pub exec: Vec<String>,
}

/// A recorded answer with the request that it answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// Its name.
    pub name: String,
    /// The request.
    pub original_request: Request,
    /// The status code of the answer, if it was recorded.
    pub code: Option<u16>,
    /// The answer's body.
    pub body: Option<String>,
}

/// What to send.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The headers, in order.
    #[serde(default, rename = "header")]
    pub headers: Vec<Field>,
    /// The body.
    pub body: Option<Body>,
    /// The address.
    pub url: Url,
}

/// A header or a form's field.
#[derive(Clone, Debug, Deserialize)]
pub struct Field {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
    /// Whether it isn't sent.
    #[serde(default)]
    pub disabled: bool,
}

/// A body.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Body {
    /// Bytes.
    Raw {
        /// The bytes, as text.
        raw: String,
    },
    /// A multipart form.
    Formdata {
        /// Its fields.
        formdata: Vec<Field>,
    },
}

/// An address: text, or text with its parts. Disabled parts aren't in the text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Url {
    /// Only the text.
    Text(String),
    /// The text and its parts.
    Parts {
        /// The text.
        raw: String,
    },
}

impl Url {
    /// The text.
    pub fn raw(&self) -> &str {
        match self {
            Self::Text(raw) | Self::Parts { raw } => raw,
        }
    }
}
