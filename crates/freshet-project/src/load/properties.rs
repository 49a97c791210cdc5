//! The YAML files beside models: each entry is read on its own.

use std::rc::Rc;

use super::Findings;
use super::files::Files;
use crate::props::{
    MacroProps, ModelProps, PropertiesFile, SingularTestProps, SourceProps, SqlMacroProps,
    UnitTestProps,
};
use crate::render::slashed;
use crate::yaml::{Doc, Item, Reader};

/// An entry of a file.
#[derive(Debug)]
pub struct Entry<T> {
    /// The file.
    pub doc: Rc<Doc>,
    /// What it says.
    pub props: T,
}

/// All entries of all files, in the order of the files.
#[derive(Debug, Default)]
pub struct Properties {
    pub sources: Vec<Entry<SourceProps>>,
    pub models: Vec<Entry<ModelProps>>,
    pub seeds: Vec<Entry<ModelProps>>,
    pub unit_tests: Vec<Entry<UnitTestProps>>,
    pub sql_macros: Vec<Entry<SqlMacroProps>>,
    pub singular_tests: Vec<Entry<SingularTestProps>>,
}

impl Properties {
    /// Reads every YAML file.
    pub fn read(files: &Files, findings: &Findings) -> Self {
        let mut all = Self::default();
        for text in &files.yaml {
            let Some(doc) = findings.keep(Doc::parse(&slashed(&text.path), &text.text)) else {
                continue;
            };
            let doc = Rc::new(doc);
            let reader = Reader::new(&doc, &findings.errors);
            let Some(file) = reader.read::<PropertiesFile>(doc.root(), "") else { continue };
            read_list(&doc, &reader, file.sources, "sources", &mut all.sources);
            read_list(&doc, &reader, file.models, "models", &mut all.models);
            read_list(&doc, &reader, file.seeds, "seeds", &mut all.seeds);
            read_list(&doc, &reader, file.unit_tests, "unit_tests", &mut all.unit_tests);
            read_list(&doc, &reader, file.sql_macros, "sql_macros", &mut all.sql_macros);
            read_list(&doc, &reader, file.data_tests, "data_tests", &mut all.singular_tests);
            let mut macros: Vec<Entry<MacroProps>> = Vec::new();
            read_list(&doc, &reader, file.macros, "macros", &mut macros);
            if doc.get(doc.root(), "snapshots").is_some() {
                findings.warn(
                    &doc.location(doc.root()),
                    "snapshots are not there in Freshet; they are left out",
                );
            }
        }
        all
    }
}

fn read_list<T: serde::de::DeserializeOwned>(
    doc: &Rc<Doc>,
    reader: &Reader<'_>,
    list: Option<Item>,
    path: &str,
    entries: &mut Vec<Entry<T>>,
) {
    let Some(list) = list else { return };
    for item in reader.list(list, path) {
        let path = doc.entry_path(*item, path);
        if let Some(props) = reader.read(*item, &path) {
            entries.push(Entry { doc: Rc::clone(doc), props });
        }
    }
}
