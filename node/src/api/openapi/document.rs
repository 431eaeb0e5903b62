//! The document, which collects the descriptions of all operations.

use std::collections::BTreeMap;

use utoipa::ToSchema;
use utoipa::openapi::schema::{Components, Schema};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    HttpMethod, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Paths, RefOr,
    Response, Server,
};

use super::error_responses::{ERROR_SCHEMA, error_schema};
use super::operation::{API_KEY_SCHEME, OperationDoc, Tag};
use super::{parameters, response_headers};

/// Introduction of the document.
const DESCRIPTION: &str = "\
A key-value store over HTTP. A bucket holds keys, each with a value, a content type and metadata.

- **Access:** the ID of a bucket is a credential. Buckets with the access mode `public-read` need \
the header `api-key` for writes, those with `protected` always.
- **Errors** are JSON with a stable code for programs, and a sentence for people. What can't be \
parsed as HTTP gets 400 without a body.
- **Lists** are text unless the client prefers `application/json` by `Accept`.
- **Web pages** of any origin may use all of it.";

/// The document under construction.
#[derive(Default)]
pub(super) struct Document {
    paths: Paths,
    responses: BTreeMap<String, Response>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Document {
    /// Adds an operation.
    pub(super) fn add(&mut self, path: &str, method: HttpMethod, operation: OperationDoc) {
        let (operation, responses) = operation.build();
        self.responses.extend(responses);
        self.paths.add_path_operation(path, vec![method], operation);
    }

    /// Adds the schema of a type, and those of the types that it contains.
    pub(super) fn add_schema<T: ToSchema>(&mut self) {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
    }

    /// Adds a schema of no type.
    pub(super) fn add_named_schema(&mut self, name: &str, schema: impl Into<RefOr<Schema>>) {
        self.schemas.push((name.to_owned(), schema.into()));
    }

    /// Replaces the schema of a property of an object.
    pub(super) fn set_property(&mut self, schema: &str, property: &str, value: ObjectBuilder) {
        let mut schemas = self.schemas.iter_mut();
        if let Some((_, RefOr::T(Schema::Object(object)))) =
            schemas.find(|(name, _)| name == schema)
        {
            object.properties.insert(property.to_owned(), value.into());
        }
    }

    /// Builds the document.
    pub(super) fn build(self) -> OpenApi {
        let mut components = Components::new();
        components.schemas.extend(self.schemas);
        components
            .schemas
            .insert(ERROR_SCHEMA.to_owned(), error_schema().into());
        for (name, response) in self.responses {
            components.responses.insert(name, response.into());
        }
        for (name, parameter) in parameters::all() {
            components.parameters.insert(name, parameter.into());
        }
        for (name, header) in response_headers::all() {
            components.headers.insert(name.to_owned(), header.into());
        }
        let api_key = ApiKeyValue::with_description("api-key", "Key of the bucket's account.");
        components.add_security_scheme(
            API_KEY_SCHEME,
            SecurityScheme::ApiKey(ApiKey::Header(api_key)),
        );
        let tags = Tag::ALL.map(|tag| {
            TagBuilder::new()
                .name(tag.name())
                .description(Some(tag.description()))
                .build()
        });
        let license = LicenseBuilder::new()
            .name("Apache License 2.0")
            .identifier(Some("Apache-2.0"))
            .build();
        let info = InfoBuilder::new()
            .title("CloudKV")
            .description(Some(DESCRIPTION))
            .license(Some(license))
            .version(env!("CARGO_PKG_VERSION"));
        OpenApiBuilder::new()
            .info(info)
            .servers(Some([Server::new("/")]))
            .paths(self.paths)
            .components(Some(components))
            .tags(Some(tags))
            .build()
    }
}
