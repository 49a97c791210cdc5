//! Names of things, as types, so that none is taken for another.

use std::fmt;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The name as it is written.
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            /// The name as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $type {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }
    };
}

name! {
    /// A run: sortable by the time of its start, unique across machines.
    RunId
}
name! {
    /// A node of the project that makes a table or view: a model, seed or snapshot. Unique in a project.
    ModelId
}
name! {
    /// A source table, written `source.table`.
    SourceId
}

impl SourceId {
    /// The id of `table` of `source`.
    pub fn of(source: &str, table: &str) -> Self {
        Self(format!("{source}.{table}"))
    }
}
