//! JSON schemas of the YAML files, from the structs that read them: editors and the reference docs
//! use them.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::props;

/// The schema of each kind of YAML struct, by the name that the reference has for it.
pub fn schemas() -> Vec<(&'static str, Schema)> {
    fn of<T: JsonSchema>() -> Schema {
        SchemaGenerator::default().into_root_schema_for::<T>()
    }
    vec![
        ("freshet.yml", of::<props::ProjectFile>()),
        ("dbt_project.yml", of::<props::DbtProjectFile>()),
        ("environment", of::<props::EnvironmentProps>()),
        ("demo data", of::<props::DemoDataProps>()),
        ("connection", of::<props::ConnectionProps>()),
        ("properties", of::<props::PropertiesFile>()),
        ("source", of::<props::SourceProps>()),
        ("source table", of::<props::TableProps>()),
        ("source column", of::<props::SourceColumnProps>()),
        ("constraint", of::<props::ConstraintProps>()),
        ("model", of::<props::ModelProps>()),
        ("column", of::<props::ColumnProps>()),
        ("model config", of::<props::ConfigProps>()),
        ("check config", of::<props::CheckConfigProps>()),
        ("unit test", of::<props::UnitTestProps>()),
        ("sql macro", of::<props::SqlMacroProps>()),
    ]
}
