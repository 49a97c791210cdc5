//! What rules there are, for the reference and for editors.

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleScope {
    /// One column: declared below a column.
    Column,
    /// The table: declared below the model or source.
    Table,
    /// Either.
    Both,
}

/// An argument of a rule.
#[derive(Debug, Clone, Copy)]
pub struct ArgumentInfo {
    /// Its name.
    pub name: &'static str,
    /// Other names that are read, such as those of dbt packages.
    pub aliases: &'static [&'static str],
    /// What it takes: `number`, `integer`, `text`, `boolean`, `list`, `duration`, `share`, `value`.
    pub kind: &'static str,
    /// Whether the rule makes no sense without it.
    pub required: bool,
    /// What it means.
    pub help: &'static str,
}

/// A rule.
#[derive(Debug, Clone, Copy)]
pub struct RuleInfo {
    /// Its name.
    pub name: &'static str,
    /// Other names that are read.
    pub aliases: &'static [&'static str],
    /// What it looks at.
    pub scope: RuleScope,
    /// What must be true, in a sentence.
    pub help: &'static str,
    /// Its arguments, beside those of all checks (`where`, `mostly`, `error_if` …).
    pub arguments: &'static [ArgumentInfo],
}

/// All rules, by name.
pub fn rules() -> &'static [RuleInfo] {
    &[]
}

/// The JSON schema of a rule's arguments.
pub fn json_schema(rule: &RuleInfo) -> serde_json::Value {
    serde_json::json!({ "type": "object", "description": rule.help })
}
