//! `GET /openapi.json`: every endpoint, its fields and its answers, as an OpenAPI 3.1 document.
//!
//! Requests are parsed field by field (`api::fields`), so the schemas here are types of their own, written for readers.
//! `truth` holds them against the parsers: what is documented is taken, at both edges of its range and not beyond, and
//! what is taken is documented.

pub mod anthropic;
pub mod chat;
pub mod completion;
mod neutral;
mod operations;
pub mod output;
pub mod response;
pub mod responses;
#[cfg(test)]
mod samples;
pub mod server;
pub mod shared;
pub mod tokens;
#[cfg(test)]
mod truth;

use std::collections::BTreeMap;
use utoipa::{
    ToSchema,
    openapi::{
        Components, ComponentsBuilder, Content, HttpMethod, Info, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref,
        RefOr, Required, ResponseBuilder, Schema, Tag, Type,
        header::HeaderBuilder,
        path::OperationBuilder,
        request_body::RequestBodyBuilder,
        schema::{AdditionalProperties, ObjectBuilder},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

const KEY: &str = "key";

/// Groups of endpoints, in the order in which they are shown.
const TAGS: [&str; 7] = [
    "Generation",
    "Responses",
    "Messages (Anthropic)",
    "Stored completions",
    "Tokens and templates",
    "Models",
    "Server",
];

/// The document's parts as endpoints are added.
#[derive(Default)]
struct Parts {
    paths: PathsBuilder,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

impl Parts {
    /// A reference to a type's schema, which becomes part of the document with all that it refers to.
    fn schema<T: ToSchema>(&mut self) -> Ref {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        self.keep(found);
        Ref::from_schema_name(T::name())
    }

    /// A schema that is there stays: fields may have been merged into it.
    fn keep(&mut self, found: Vec<(String, RefOr<Schema>)>) {
        for (name, schema) in found {
            self.schemas.entry(name).or_insert(schema);
        }
    }

    /// Puts fields of `F` that `wanted` names into the schema of `T`, which is part of the document already.
    fn merge<T: ToSchema, F: ToSchema>(&mut self, wanted: impl Fn(&str) -> bool) {
        let mut found = Vec::new();
        F::schemas(&mut found);
        self.keep(found);
        if let (Some(RefOr::T(Schema::Object(own))), RefOr::T(Schema::Object(more))) =
            (self.schemas.get_mut(&*T::name()), F::schema())
        {
            own.properties.extend(more.properties.into_iter().filter(|(name, _)| wanted(name)));
            own.required.extend(more.required.into_iter().filter(|name| wanted(name)));
        }
    }

    /// What clients send back may have fields that are not known, as long as they are null.
    fn allow_nulls<T: ToSchema>(&mut self) {
        if let Some(RefOr::T(Schema::Object(own))) = self.schemas.get_mut(&*T::name()) {
            let null = ObjectBuilder::new().schema_type(Type::Null).build();
            own.additional_properties = Some(Box::new(AdditionalProperties::RefOr(RefOr::T(Schema::Object(null)))));
        }
    }

    fn add(&mut self, method: HttpMethod, path: &str, operation: OperationBuilder) {
        let paths = std::mem::take(&mut self.paths);
        self.paths = paths.path(path, PathItem::new(method, operation));
    }

    /// Adds the errors that an endpoint may answer with, whose bodies are all of `E`.
    fn errors<E: ToSchema>(&mut self, mut operation: OperationBuilder, statuses: &[u16]) -> OperationBuilder {
        let schema = self.schema::<E>();
        for status in statuses {
            let mut response = json_response(meaning(*status), schema.clone());
            if matches!(status, 429 | 503) {
                let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
                let header = HeaderBuilder::new()
                    .schema(Some(seconds))
                    .description(Some("Seconds after which to try again, where that is known."))
                    .build();
                response = response.header("retry-after", header);
            }
            operation = operation.response(status.to_string(), response);
        }
        operation
    }
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request is wrong: `param` names the field.",
        401 => "The API key is missing or unknown.",
        404 => "There is no such thing, for instance no such model.",
        408 => "The body did not arrive in time.",
        409 => "The model is in use, or stays loaded.",
        413 => "The body is too large.",
        415 => "The body is not JSON.",
        429 => "Too many requests wait: try again later.",
        503 => "The model is loading, or the server restarts its device or shuts down.",
        507 => "There is no room: for the model in memory, or for the answer in the store.",
        504 => "The answer was not complete at the request's deadline.",
        _ => "An error.",
    }
}

fn json_response(description: &str, schema: impl Into<RefOr<Schema>>) -> ResponseBuilder {
    ResponseBuilder::new().description(description).content("application/json", Content::new(Some(schema)))
}

fn text_response(description: &str, content_type: &str) -> ResponseBuilder {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    ResponseBuilder::new().description(description).content(content_type, Content::new(Some(text)))
}

fn json_body(schema: Ref) -> Option<utoipa::openapi::request_body::RequestBody> {
    let content = Content::new(Some(schema));
    Some(RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True)).build())
}

/// The whole document.
pub fn document() -> OpenApi {
    let mut parts = Parts::default();
    operations::add_all(&mut parts);
    let Parts { paths, schemas } = parts;
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("One of the server's API keys; needed only where the server has keys."))
        .build();
    let components: Components =
        ComponentsBuilder::new().schemas_from_iter(schemas).security_scheme(KEY, SecurityScheme::Http(bearer)).build();
    let mut info = Info::new("Hesper", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "An inference server for language models with OpenAI's API. Requests are read strictly: an unknown, malformed \
         or unsupported field is a 400 that names it. `null` is the same as leaving a field out."
            .to_owned(),
    );
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(TAGS.map(Tag::new)))
        .paths(paths)
        .components(Some(components))
        // The second, empty one says that a key may not be needed.
        .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>(KEY, []), SecurityRequirement::default()]))
        .build()
}
