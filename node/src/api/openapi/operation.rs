//! Description of one operation, in few words: what all operations have in common is added here.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::extensions::{Extensions, ExtensionsBuilder};
use utoipa::openapi::path::{Operation, OperationBuilder};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{
    Content, ContentBuilder, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement,
};

use super::error_responses::{self, header_ref};
use super::{parameters, response_headers, values};
use crate::api::error_code::ErrorCode;

/// Name of the security scheme.
pub(super) const API_KEY_SCHEME: &str = "apiKey";

/// Errors that any request can get: 405 with a method that isn't described.
const COMMON_ERRORS: [ErrorCode; 6] = [
    ErrorCode::InvalidHeader,
    ErrorCode::UnknownRegion,
    ErrorCode::MethodNotAllowed,
    ErrorCode::TooManyHeaders,
    ErrorCode::Unavailable,
    ErrorCode::Starting,
];

/// Use of `api-key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiKeyUse {
    /// It is never needed.
    Never,
    /// It may be given, or the bucket's access mode decides whether it must be.
    Optional,
    /// It must be given.
    Always,
}

/// Group of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Operations on one key.
    Keys,
    /// Operations on many keys.
    ListsAndBatches,
    /// Operations on buckets.
    Buckets,
    /// Operations on the service itself.
    Service,
}

impl Tag {
    /// All groups, in the order of the page.
    pub(super) const ALL: [Self; 4] = [
        Self::Keys,
        Self::ListsAndBatches,
        Self::Buckets,
        Self::Service,
    ];

    /// Returns the name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keys => "Keys",
            Self::ListsAndBatches => "Lists and batches",
            Self::Buckets => "Buckets",
            Self::Service => "Service",
        }
    }

    /// Returns the description.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Keys => "One key of a bucket.",
            Self::ListsAndBatches => "Many keys of a bucket.",
            Self::Buckets => "Buckets of an account, each with a plan and an access mode.",
            Self::Service => "The service itself.",
        }
    }
}

/// Description of an operation.
#[derive(Clone)]
pub(super) struct OperationDoc {
    id: &'static str,
    tag: Tag,
    summary: &'static str,
    description: &'static str,
    api_key: ApiKeyUse,
    parameters: Vec<&'static str>,
    body: Option<RequestBody>,
    responses: BTreeMap<u16, Response>,
    errors: Vec<ErrorCode>,
    samples: Vec<&'static str>,
}

impl OperationDoc {
    /// Begins the description of an operation.
    pub(super) fn new(id: &'static str, tag: Tag, summary: &'static str) -> Self {
        Self {
            id,
            tag,
            summary,
            description: "",
            api_key: ApiKeyUse::Never,
            parameters: Vec::new(),
            body: None,
            responses: BTreeMap::new(),
            errors: COMMON_ERRORS.to_vec(),
            samples: Vec::new(),
        }
    }

    /// Returns the same operation by another method, under another ID.
    pub(super) fn renamed(self, id: &'static str) -> Self {
        Self { id, ..self }
    }

    /// Sets the description, in Markdown.
    pub(super) fn description(self, description: &'static str) -> Self {
        Self {
            description,
            ..self
        }
    }

    /// Sets the use of `api-key`.
    pub(super) fn api_key(self, api_key: ApiKeyUse) -> Self {
        Self { api_key, ..self }
    }

    /// Adds parameters, by name.
    pub(super) fn parameters(mut self, names: &[&'static str]) -> Self {
        self.parameters.extend(names);
        self
    }

    /// Sets the body of the request.
    pub(super) fn body(self, body: RequestBody) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }

    /// Adds a response without an error, with the headers that only it has.
    pub(super) fn response(
        mut self,
        status: u16,
        description: &str,
        headers: &[&'static str],
        contents: impl IntoIterator<Item = (&'static str, Content)>,
    ) -> Self {
        let headers = headers.iter().chain(&response_headers::COMMON);
        let response = headers.fold(ResponseBuilder::new(), |response, name| {
            response.header_ref(*name, header_ref(name))
        });
        let response = contents
            .into_iter()
            .fold(response, |response, (media_type, content)| {
                response.content(media_type, content)
            })
            .description(description);
        self.responses.insert(status, response.build());
        self
    }

    /// Adds errors.
    pub(super) fn errors(mut self, errors: &[ErrorCode]) -> Self {
        self.errors.extend(errors);
        self
    }

    /// Adds an example: a command.
    pub(super) fn sample(mut self, command: &'static str) -> Self {
        self.samples.push(command);
        self
    }

    /// Returns the operation, and the responses that it refers to, by name.
    pub(super) fn build(self) -> (Operation, BTreeMap<String, Response>) {
        let mut builder = OperationBuilder::new()
            .operation_id(Some(self.id))
            .tag(self.tag.name())
            .summary(Some(self.summary))
            .securities(self.api_key.requirements())
            .request_body(self.body);
        if !self.description.is_empty() {
            builder = builder.description(Some(self.description));
        }
        for name in self.parameters.iter().chain([&parameters::REQUEST_ID]) {
            builder = builder.parameter_ref(Ref::new(format!("#/components/parameters/{name}")));
        }
        for (status, response) in self.responses {
            builder = builder.response(status.to_string(), response);
        }
        let mut components = BTreeMap::new();
        for (status, (name, response)) in error_responses::by_status(&self.errors) {
            builder = builder.response(status.to_string(), Ref::from_response_name(name.as_str()));
            components.insert(name, response);
        }
        if !self.samples.is_empty() {
            builder = builder.extensions(Some(samples(&self.samples)));
        }
        (builder.build(), components)
    }
}

impl ApiKeyUse {
    fn requirements(self) -> Option<Vec<SecurityRequirement>> {
        let nothing = SecurityRequirement::default();
        let key = || SecurityRequirement::new(API_KEY_SCHEME, [""; 0]);
        match self {
            Self::Never => None,
            Self::Optional => Some(vec![nothing, key()]),
            Self::Always => Some(vec![key()]),
        }
    }
}

/// Returns commands as the extension that viewers of OpenAPI show as examples.
fn samples(commands: &[&str]) -> Extensions {
    let samples = commands
        .iter()
        .map(|command| json!({"lang": "Shell", "label": "curl", "source": command}));
    ExtensionsBuilder::new()
        .add("x-codeSamples", Value::from_iter(samples))
        .build()
}

/// Returns JSON content of a schema, with an example.
pub(super) fn json_content(
    schema: impl Into<RefOr<Schema>>,
    example: Value,
) -> (&'static str, Content) {
    let content = ContentBuilder::new()
        .schema(Some(schema))
        .example(Some(example))
        .build();
    ("application/json", content)
}

/// Returns content of text, with an example.
pub(super) fn text_content(media_type: &'static str, example: &str) -> (&'static str, Content) {
    let content = ContentBuilder::new()
        .schema(Some(values::text()))
        .example(Some(json!(example)))
        .build();
    (media_type, content)
}

/// Returns a reference to the schema of a type.
pub(super) fn schema_ref<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}
