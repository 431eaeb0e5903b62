//! File format of collections, version 2.0, as far as it is used.

use serde::Deserialize;

/// A collection: folders of requests.
#[derive(Clone, Debug, Deserialize)]
pub struct Collection {
    /// Folders.
    #[serde(rename = "item")]
    pub folders: Vec<Folder>,
}

impl Collection {
    /// Returns every request with its name, `Folder/Request`.
    pub fn items(&self) -> Vec<(String, &Item)> {
        let named = |folder: &Folder, item: &Item| format!("{}/{}", folder.name, item.name);
        let folders = self.folders.iter();
        folders
            .flat_map(|f| f.items.iter().map(move |i| (named(f, i), i)))
            .collect()
    }

    /// Returns the request of this name.
    ///
    /// # Panics
    /// Panics if there is none.
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
    /// Name.
    pub name: String,
    /// Requests.
    #[serde(rename = "item")]
    pub items: Vec<Item>,
}

/// A request with its scripts and recorded responses.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    /// Name.
    pub name: String,
    /// The request.
    pub request: Request,
    /// Scripts to run.
    #[serde(default, rename = "event")]
    pub events: Vec<ScriptEvent>,
    /// Recorded responses.
    #[serde(default, rename = "response")]
    pub examples: Vec<Example>,
}

/// A script and its trigger.
#[derive(Clone, Debug, Deserialize)]
pub struct ScriptEvent {
    /// `test`: after the response.
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

/// A recorded response with its request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// Name.
    pub name: String,
    /// The request.
    pub original_request: Request,
    /// Status code, if it was recorded.
    pub code: Option<u16>,
    /// Body.
    pub body: Option<String>,
}

/// An HTTP request.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Headers, in order.
    #[serde(default, rename = "header")]
    pub headers: Vec<FormField>,
    /// Body.
    pub body: Option<RequestBody>,
    /// Address.
    pub url: Url,
}

/// A header or a form's field.
#[derive(Clone, Debug, Deserialize)]
pub struct FormField {
    /// Name.
    pub key: String,
    /// Value.
    pub value: String,
    /// True if the field isn't sent.
    #[serde(default)]
    pub disabled: bool,
}

/// A body.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum RequestBody {
    /// Plain bytes.
    Raw {
        /// The bytes, as text.
        raw: String,
    },
    /// A multipart form.
    Formdata {
        /// Fields of the form.
        formdata: Vec<FormField>,
    },
}

/// An address: text, or text with its parts. Disabled parts aren't in the text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Url {
    /// Text without parts.
    Text(String),
    /// Text with its parts, which are ignored.
    Parts {
        /// The text.
        raw: String,
    },
}

impl Url {
    /// Returns the address as text.
    pub fn raw(&self) -> &str {
        match self {
            Self::Text(raw) | Self::Parts { raw } => raw,
        }
    }
}
