//! What rules there are: the one table from which checks are read, documented and offered.

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleScope {
    /// One column: declared below a column, or below the table with `column`.
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
    /// What it takes: `number`, `integer`, `text`, `boolean`, `list`, `duration`, `share`, `value`
    /// (a number, or text in the column's type), `relation`.
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
    /// Other names that are read; `freshet.` in front of the name is always read.
    pub aliases: &'static [&'static str],
    /// What it looks at.
    pub scope: RuleScope,
    /// What must be true, in a sentence.
    pub help: &'static str,
    /// Its arguments, beside those of all checks (`where`, `mostly`, `error_if` …).
    pub arguments: &'static [ArgumentInfo],
}

const fn argument(
    name: &'static str,
    aliases: &'static [&'static str],
    kind: &'static str,
    help: &'static str,
) -> ArgumentInfo {
    ArgumentInfo { name, aliases, kind, required: false, help }
}

const fn required(
    name: &'static str,
    aliases: &'static [&'static str],
    kind: &'static str,
    help: &'static str,
) -> ArgumentInfo {
    ArgumentInfo { name, aliases, kind, required: true, help }
}

const MIN: ArgumentInfo = argument("min", &["min_value"], "value", "The lower bound.");
const MAX: ArgumentInfo = argument("max", &["max_value"], "value", "The upper bound.");
const STRICTLY: ArgumentInfo =
    argument("strictly", &[], "boolean", "Whether the bounds themselves are outside.");

/// The arguments that each rule takes beside its own.
pub(super) const COMMON: [ArgumentInfo; 2] = [
    argument(
        "column",
        &["column_name"],
        "text",
        "The column, where the check is declared below the table.",
    ),
    argument("row_condition", &[], "text", "Another name of `where`, as dbt_expectations has it."),
];

static RULES: &[RuleInfo] = &[
    RuleInfo {
        name: "accepted_values",
        aliases: &["dbt_expectations.expect_column_values_to_be_in_set"],
        scope: RuleScope::Column,
        help: "Each value is one of a list; nulls pass.",
        arguments: &[
            required("values", &["value_set"], "list", "The values that are accepted."),
            argument(
                "quote",
                &["quote_values"],
                "boolean",
                "Whether text in `values` is a text value (the default) or a SQL expression.",
            ),
        ],
    },
    RuleInfo {
        name: "distinct_count",
        aliases: &[
            "dbt_expectations.expect_column_unique_value_count_to_be_between",
            "dbt_utils.not_constant",
        ],
        scope: RuleScope::Column,
        help: "The number of different values, nulls left out, is within bounds.",
        arguments: &[MIN, MAX, STRICTLY],
    },
    RuleInfo {
        name: "expression",
        aliases: &["dbt_utils.expression_is_true", "dbt_expectations.expression_is_true"],
        scope: RuleScope::Both,
        help: "A SQL expression over the columns of a row holds; null passes, as in a SQL constraint. Below a column, an expression such as `>= 0` continues the column's name.",
        arguments: &[required("expression", &["sql"], "text", "The expression.")],
    },
    RuleInfo {
        name: "freshness",
        aliases: &["dbt_utils.recency"],
        scope: RuleScope::Both,
        help: "The latest value of a date or timestamp column is at most so old; a table without one is not fresh.",
        arguments: &[
            argument("max_age", &[], "duration", "The greatest age, e.g. `1day 6h`."),
            argument("field", &[], "text", "The column, as dbt_utils.recency has it."),
            argument("datepart", &[], "text", "The unit of `interval`: `hour`, `day` …"),
            argument("interval", &[], "integer", "The greatest age in units of `datepart`."),
        ],
    },
    RuleInfo {
        name: "length",
        aliases: &[
            "dbt_expectations.expect_column_value_lengths_to_be_between",
            "dbt_utils.not_empty_string",
        ],
        scope: RuleScope::Column,
        help: "The number of characters of each value is within bounds, both inclusive; nulls pass.",
        arguments: &[
            MIN,
            MAX,
            argument(
                "trim_whitespace",
                &[],
                "boolean",
                "Whether spaces around the value do not count.",
            ),
        ],
    },
    RuleInfo {
        name: "max",
        aliases: &["dbt_expectations.expect_column_max_to_be_between"],
        scope: RuleScope::Column,
        help: "The greatest value is within bounds; passes where there is no value.",
        arguments: &[MIN, MAX, STRICTLY],
    },
    RuleInfo {
        name: "mean",
        aliases: &["dbt_expectations.expect_column_mean_to_be_between"],
        scope: RuleScope::Column,
        help: "The mean of the values is within bounds; passes where there is no value.",
        arguments: &[MIN, MAX, STRICTLY],
    },
    RuleInfo {
        name: "min",
        aliases: &["dbt_expectations.expect_column_min_to_be_between"],
        scope: RuleScope::Column,
        help: "The least value is within bounds; passes where there is no value.",
        arguments: &[MIN, MAX, STRICTLY],
    },
    RuleInfo {
        name: "not_accepted_values",
        aliases: &[
            "dbt_utils.not_accepted_values",
            "dbt_expectations.expect_column_values_to_not_be_in_set",
        ],
        scope: RuleScope::Column,
        help: "No value is one of a list; nulls pass.",
        arguments: &[
            required("values", &["value_set"], "list", "The values that are not accepted."),
            argument(
                "quote",
                &["quote_values"],
                "boolean",
                "Whether text in `values` is a text value (the default) or a SQL expression.",
            ),
        ],
    },
    RuleInfo {
        name: "not_null",
        aliases: &["dbt_expectations.expect_column_values_to_not_be_null"],
        scope: RuleScope::Column,
        help: "No value is null.",
        arguments: &[],
    },
    RuleInfo {
        name: "not_regex",
        aliases: &["dbt_expectations.expect_column_values_to_not_match_regex"],
        scope: RuleScope::Column,
        help: "No value matches a regular expression anywhere; nulls pass.",
        arguments: &[required("regex", &["pattern"], "text", "The expression, in RE2's syntax.")],
    },
    RuleInfo {
        name: "null_ratio",
        aliases: &["dbt_utils.not_null_proportion", "dbt_utils.at_least_one"],
        scope: RuleScope::Column,
        help: "The share of nulls is at most so much.",
        arguments: &[
            argument("max", &["max_value"], "share", "The greatest share of nulls."),
            argument("min", &["min_value"], "share", "The least share of nulls."),
            argument(
                "at_least",
                &[],
                "share",
                "The least share of values, as dbt_utils.not_null_proportion has it.",
            ),
            argument(
                "at_most",
                &[],
                "share",
                "The greatest share of values, as dbt_utils.not_null_proportion has it.",
            ),
        ],
    },
    RuleInfo {
        name: "quantile",
        aliases: &[
            "dbt_expectations.expect_column_quantile_values_to_be_between",
            "dbt_expectations.expect_column_median_to_be_between",
        ],
        scope: RuleScope::Column,
        help: "A quantile of the values is within bounds, estimated by a t-digest; passes where there is no value.",
        arguments: &[
            argument(
                "quantile",
                &["q"],
                "number",
                "Which one, from 0 to 1; 0.5, the median, by default.",
            ),
            MIN,
            MAX,
            STRICTLY,
        ],
    },
    RuleInfo {
        name: "range",
        aliases: &[
            "between",
            "accepted_range",
            "dbt_utils.accepted_range",
            "dbt_expectations.expect_column_values_to_be_between",
        ],
        scope: RuleScope::Column,
        help: "Each value is within bounds; nulls pass.",
        arguments: &[
            MIN,
            MAX,
            argument(
                "inclusive",
                &[],
                "boolean",
                "Whether the bounds themselves are inside; true by default.",
            ),
            STRICTLY,
        ],
    },
    RuleInfo {
        name: "regex",
        aliases: &["dbt_expectations.expect_column_values_to_match_regex"],
        scope: RuleScope::Column,
        help: "Each value matches a regular expression somewhere; nulls pass.",
        arguments: &[required("regex", &["pattern"], "text", "The expression, in RE2's syntax.")],
    },
    RuleInfo {
        name: "relationships",
        aliases: &[],
        scope: RuleScope::Column,
        help: "Each value is a value of a column of another table; nulls pass.",
        arguments: &[
            required(
                "to",
                &[],
                "relation",
                "The other table: `ref('model')` or `source('name', 'table')`.",
            ),
            required("field", &[], "text", "The other table's column."),
        ],
    },
    RuleInfo {
        name: "row_count",
        aliases: &["dbt_expectations.expect_table_row_count_to_be_between"],
        scope: RuleScope::Table,
        help: "The number of rows is within bounds.",
        arguments: &[MIN, MAX, STRICTLY],
    },
    RuleInfo {
        name: "sql",
        aliases: &[],
        scope: RuleScope::Both,
        help: "A query gives no rows; the table under test is called `this` in it.",
        arguments: &[required("query", &["sql"], "text", "The query: its rows are failures.")],
    },
    RuleInfo {
        name: "stddev",
        aliases: &["dbt_expectations.expect_column_stdev_to_be_between"],
        scope: RuleScope::Column,
        help: "The sample's standard deviation is within bounds; passes where there are fewer than two values.",
        arguments: &[MIN, MAX, STRICTLY],
    },
    RuleInfo {
        name: "sum",
        aliases: &["dbt_expectations.expect_column_sum_to_be_between"],
        scope: RuleScope::Column,
        help: "The sum of the values is within bounds; passes where there is no value.",
        arguments: &[MIN, MAX, STRICTLY],
    },
    RuleInfo {
        name: "unique",
        aliases: &[
            "dbt_utils.unique_combination_of_columns",
            "dbt_expectations.expect_column_values_to_be_unique",
            "dbt_expectations.expect_compound_columns_to_be_unique",
        ],
        scope: RuleScope::Both,
        help: "No two rows share a key. Failures are the rows beyond the first of each key. Nulls of a single column pass; in a combination null equals null.",
        arguments: &[
            argument(
                "columns",
                &["combination_of_columns", "column_list", "combination"],
                "list",
                "The columns of the key, where it has several.",
            ),
            argument(
                "order_by",
                &[],
                "text",
                "With `on_fail: quarantine`: which row of a key is kept, the first in this order.",
            ),
        ],
    },
    RuleInfo {
        name: "volume",
        aliases: &[],
        scope: RuleScope::Table,
        help: "The number of rows is near what earlier runs published; passes where there was none.",
        arguments: &[
            argument("min_ratio", &[], "number", "At least this times their median; default 0.5."),
            argument("max_ratio", &[], "number", "At most this times their median; default 2."),
            argument("runs", &[], "integer", "How many earlier runs count; default 10."),
        ],
    },
];

/// All rules, by name.
pub fn rules() -> &'static [RuleInfo] {
    RULES
}

/// The rule that a check names.
pub(super) fn find(name: &str) -> Option<&'static RuleInfo> {
    let bare = name.strip_prefix("freshet.").unwrap_or(name);
    RULES
        .iter()
        .find(|rule| rule.name == bare)
        .or_else(|| RULES.iter().find(|rule| rule.aliases.contains(&bare)))
}

/// Every name that [`find`] knows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| std::iter::once(rule.name).chain(rule.aliases.iter().copied()))
}

/// The JSON schema of a rule's arguments.
pub fn json_schema(rule: &RuleInfo) -> serde_json::Value {
    let mut properties = serde_json::Map::new();
    for argument in rule.arguments.iter().chain(&COMMON) {
        let mut schema = match argument.kind {
            "number" => serde_json::json!({ "type": "number" }),
            "integer" => serde_json::json!({ "type": "integer", "minimum": 0 }),
            "boolean" => serde_json::json!({ "type": "boolean" }),
            "list" => serde_json::json!({ "type": "array" }),
            "share" | "value" => serde_json::json!({ "type": ["number", "string"] }),
            _ => serde_json::json!({ "type": "string" }),
        };
        schema["description"] = argument.help.into();
        for alias in argument.aliases {
            properties.insert((*alias).to_owned(), schema.clone());
        }
        properties.insert(argument.name.to_owned(), schema);
    }
    let required: Vec<_> = rule
        .arguments
        .iter()
        .filter(|argument| argument.required && argument.aliases.is_empty())
        .map(|argument| argument.name)
        .collect();
    serde_json::json!({
        "type": "object",
        "description": rule.help,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}
