//! Declared checks to rules.

use arrow::datatypes::Schema;
use freshet_core::{Error, Result};
use freshet_project::Check;

use super::Rule;

pub(super) fn parse(_: &Check, _: Option<&Schema>) -> Result<Rule> {
    Err(Error::internal("checks are not read yet"))
}

pub(super) fn query_rule(check: &Check, sql: String) -> Result<Rule> {
    Ok(Rule { check: check.clone(), sql: Some(sql) })
}
