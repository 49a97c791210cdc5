//! `freshet test`: the checks of what is published, of sources, singular tests and unit tests.
//! Nothing is built and nothing is written.

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use freshet_core::{Location, ModelId, Result, SourceId};
use freshet_project::{Check, CheckTarget, UnitTest, UnitTestRef};
use futures::future::BoxFuture;
use serde::Serialize;

use crate::build::{Subject, run_checks};
use crate::checks::{Relation, When};
use crate::engine::Engine;
use crate::relations::{self, ReadMode, table_of};
use crate::report::{CheckReport, ErrorReport};
use crate::session::CATALOG;
use crate::unit_tests::{UnitTestReport, UnitTestTable, run_unit_test};

/// The tests of one model, source or query.
#[derive(Debug, Clone, Serialize)]
pub struct TestReport {
    /// What they are about.
    pub target: String,
    /// What each check found.
    pub checks: Vec<CheckReport>,
    /// What each unit test gave.
    pub unit_tests: Vec<UnitTestReport>,
    /// Why the rest could not be run.
    pub error: Option<ErrorReport>,
}

impl TestReport {
    fn new(target: impl Into<String>) -> Self {
        Self { target: target.into(), checks: Vec::new(), unit_tests: Vec::new(), error: None }
    }

    /// Whether everything holds.
    pub fn passed(&self) -> bool {
        self.error.is_none()
            && !Engine::any_failed(&self.checks)
            && self.unit_tests.iter().all(|test| test.passed)
    }
}

impl Engine {
    /// Tests nodes as they are published: unit tests first, which need no data, then checks.
    pub fn test_node<'a>(
        &'a self,
        id: &'a ModelId,
        history: &'a [u64],
    ) -> BoxFuture<'a, TestReport> {
        Box::pin(async move {
            let mut report = TestReport::new(id.as_str());
            for test in self.project().unit_tests.iter().filter(|test| test.model == *id) {
                match self.unit_test(test).await {
                    Ok(outcome) => report.unit_tests.push(outcome),
                    Err(error) => {
                        report.error = Some(ErrorReport::from(&error.at(test.location.clone())));
                    }
                }
            }
            let declared: Vec<Check> = self
                .project()
                .checks
                .iter()
                .filter(|check| matches!(&check.target, CheckTarget::Node(node) if node == id))
                .cloned()
                .collect();
            if !declared.is_empty() {
                match self.check_published(id, &declared, history).await {
                    Ok(checks) => report.checks = checks,
                    Err(error) => report.error = Some(ErrorReport::from(&error)),
                }
            }
            report
        })
    }

    /// Tests a source as it lies.
    pub fn test_source<'a>(&'a self, id: &'a SourceId) -> BoxFuture<'a, TestReport> {
        Box::pin(async move {
            let mut report = TestReport::new(format!("source {id}"));
            let declared: Vec<Check> = self
                .project()
                .checks
                .iter()
                .filter(
                    |check| matches!(&check.target, CheckTarget::Source(source) if source == id),
                )
                .cloned()
                .collect();
            if declared.is_empty() {
                return report;
            }
            match self.check_source(id, &declared).await {
                Ok(checks) => report.checks = checks,
                Err(error) => report.error = Some(ErrorReport::from(&error)),
            }
            report
        })
    }

    /// Runs a singular test.
    pub fn test_query<'a>(&'a self, check: &'a Check) -> BoxFuture<'a, TestReport> {
        Box::pin(async move {
            let mut report = TestReport::new(check.name.clone());
            match self.check_query(check).await {
                Ok(checks) => report.checks = checks,
                Err(error) => report.error = Some(ErrorReport::from(&error)),
            }
            report
        })
    }

    async fn check_published(
        &self,
        id: &ModelId,
        declared: &[Check],
        history: &[u64],
    ) -> Result<Vec<CheckReport>> {
        let node = self.node(id)?;
        let context = self.query_context()?;
        let ids = std::slice::from_ref(id);
        relations::register_named(self, &context, ids, &[], &ReadMode::default()).await?;
        let name = table_of(self.project(), node);
        let table = TableReference::full(CATALOG, name.schema, name.name);
        let relation = Relation::Node(id.clone());
        let subject = Subject { relation, others: table.clone(), table };
        run_checks(self, &context, Some(&subject), declared, history, When::AsItIs).await
    }

    async fn check_source(&self, id: &SourceId, declared: &[Check]) -> Result<Vec<CheckReport>> {
        let source = self.source_table(id)?;
        let context = self.query_context()?;
        let ids = std::slice::from_ref(id);
        relations::register_named(self, &context, &[], ids, &ReadMode::default()).await?;
        let table = TableReference::full(CATALOG, source.source.as_str(), source.table.as_str());
        let relation = Relation::Source(id.clone());
        let subject = Subject { relation, others: table.clone(), table };
        run_checks(self, &context, Some(&subject), declared, &[], When::AsItIs).await
    }

    async fn check_query(&self, check: &Check) -> Result<Vec<CheckReport>> {
        let context = self.query_context()?;
        let declared = std::slice::from_ref(check);
        run_checks(self, &context, None, declared, &[], When::AsItIs).await
    }

    async fn unit_test(&self, test: &UnitTest) -> Result<UnitTestReport> {
        let mut names = Vec::with_capacity(test.given.len());
        let mut tables = Vec::with_capacity(test.given.len());
        for (index, given) in test.given.iter().enumerate() {
            let name = format!("given_{index}");
            names.push((given.input.clone(), format!("\"main\".\"{name}\"")));
            let schema = self.given_schema(&test.model, &given.input).await;
            let reference = TableReference::partial("main", name);
            tables.push((given.input.clone(), UnitTestTable { name: reference, schema }));
        }
        let compiled = self.project().compile_unit_test(test, &names)?;
        let context = self.query_context()?;
        let sql = crate::functions::expand_macros(&compiled.sql, &self.project().sql_macros)?;
        run_unit_test(&context, test, &sql, &tables)
            .await
            .map_err(|error| error.at(Location::file(test.location.file.clone())))
    }

    /// The columns of an input, as far as they are known without building anything: declared, or
    /// those of the table that is published.
    async fn given_schema(&self, model: &ModelId, input: &UnitTestRef) -> Option<SchemaRef> {
        match input {
            UnitTestRef::Source(id) => {
                let contract = &self.source_table(id).ok()?.contract;
                (!contract.columns.is_empty()).then(|| contract.schema())
            }
            UnitTestRef::Node(id) => self.node_schema(id).await,
            UnitTestRef::This => self.node_schema(model).await,
        }
    }

    async fn node_schema(&self, id: &ModelId) -> Option<SchemaRef> {
        let node = self.node(id).ok()?;
        let context = self.query_context().ok()?;
        if let Some(snapshot) =
            self.lake().load(&table_of(self.project(), node), None).await.ok().flatten()
        {
            return Some(snapshot.schema);
        }
        // Not built yet: its SQL tells, where everything below it can be planned.
        let declared = self.declared_schema(&context, node).await;
        declared.ok()
    }
}
