//! The schemas that events must follow.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{Operator, OpsError, join};
use crate::schema::SchemaViolation;

/// A type and the versions of its schema.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SchemaReport {
    /// The event type.
    #[serde(rename = "type")]
    pub r#type: String,
    /// Its versions, the greatest last.
    pub versions: Vec<SchemaVersion>,
}

/// One version of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SchemaVersion {
    /// The version.
    pub version: String,
    /// The title in the schema.
    pub title: Option<String>,
}

/// A schema.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SchemaDocument {
    /// The event type.
    #[serde(rename = "type")]
    pub r#type: String,
    /// The version.
    pub version: String,
    /// The title in the schema.
    pub title: Option<String>,
    /// The JSON Schema.
    pub schema: Value,
}

/// Which version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SchemaQuery {
    /// The version [default: the greatest]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Operator {
    /// All types that have schemas.
    pub fn schemas(&self) -> Vec<SchemaReport> {
        let report = |(r#type, schemas): (&str, &[crate::schema::Schema])| SchemaReport {
            r#type: r#type.to_owned(),
            versions: schemas
                .iter()
                .map(|schema| SchemaVersion { version: schema.version.clone(), title: schema.title.clone() })
                .collect(),
        };
        self.schemas.types().map(report).collect()
    }

    /// The schema of a type, in its greatest version if none is named.
    pub fn schema(&self, r#type: &str, version: Option<&str>) -> Result<SchemaDocument, OpsError> {
        match self.schemas.find(r#type, version) {
            Ok(Some(schema)) => Ok(SchemaDocument {
                r#type: r#type.to_owned(),
                version: schema.version.clone(),
                title: schema.title.clone(),
                schema: (*schema.document).clone(),
            }),
            Err(violation @ SchemaViolation::UnknownVersion { .. }) => {
                Err(OpsError::UnknownSchema(violation.to_string()))
            }
            _ => {
                let known = join(self.schemas.types().map(|(known, _)| known));
                Err(OpsError::UnknownSchema(format!("there is no schema for {type:?}; there are: {known}")))
            }
        }
    }
}
