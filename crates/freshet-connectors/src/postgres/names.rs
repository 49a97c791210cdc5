//! Names of tables and columns, quoted wherever they enter a statement.

use std::fmt;

use freshet_core::error::{Error, Result, code};
use serde::{Deserialize, Serialize};

/// Bytes of a name that the server keeps; it cuts the rest off silently.
const NAME_BYTES: usize = 63;

/// A table by schema and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
}

impl Table {
    /// Reads `table` or `schema.table`; names are taken as they are, in their case.
    pub(super) fn parse(text: &str, default_schema: &str) -> Result<Self> {
        let (schema, name) = text.split_once('.').unwrap_or((default_schema, text));
        let fits = |name: &str| {
            !name.is_empty() && name.len() <= NAME_BYTES && !name.contains(['\0', '.'])
        };
        if !fits(schema) || !fits(name) {
            return Err(Error::new(
                code::CONFIG,
                format!("\"{text}\" is no name of a postgres table"),
            )
            .hint("write `table` or `schema.table`, each of at most 63 bytes"));
        }
        Ok(Self { schema: schema.to_owned(), name: name.to_owned() })
    }

    /// The name as it stands in a statement.
    pub(super) fn sql(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A name as it stands in a statement.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether the server keeps a column's name whole.
pub(super) fn fits(column: &str) -> bool {
    !column.is_empty() && column.len() <= NAME_BYTES && !column.contains('\0')
}

/// The staging table of one commit: the same for each attempt at it.
pub(super) fn stage_name(writer: &str, target: &Table, number: u64) -> String {
    let digest = blake3::hash(format!("{writer}\0{}\0{}", target.schema, target.name).as_bytes());
    let tail = format!("_{}_{number}", &digest.to_hex()[..8]);
    let room = NAME_BYTES - "_freshet_stage_".len() - tail.len();
    let mut end = target.name.len().min(room);
    while !target.name.is_char_boundary(end) {
        end -= 1;
    }
    format!("_freshet_stage_{}{tail}", &target.name[..end])
}
