//! The engine as the orchestrator's builder.

use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::Result;
use freshet_engine::{BuildObserver, BuildReport, BuildTask, Engine};

use crate::builder::{BuildFailure, Builder, IntentRecord, RecoveredIntent, Recovery};

#[async_trait]
impl Builder for Engine {
    async fn recover(&self, killed: bool) -> Result<Vec<RecoveredIntent>> {
        let recovered = Engine::recover(self, killed).await?;
        Ok(recovered
            .into_iter()
            .map(|recovered| {
                let intent = recovered.intent;
                let finished = recovered.version.is_some();
                let mut report = intent.report;
                report.version = recovered.version;
                RecoveredIntent {
                    model: intent.model,
                    number: intent.number,
                    run: intent.run,
                    action: if finished { Recovery::Finished } else { Recovery::Abandoned },
                    progress: report.progress.clone(),
                    report: finished.then_some(report),
                }
            })
            .collect())
    }

    async fn build(
        &self,
        task: &BuildTask,
        observer: Arc<dyn BuildObserver>,
    ) -> Result<BuildReport, BuildFailure> {
        Engine::build(self, task, observer)
            .await
            .map_err(|failure| BuildFailure { error: failure.error, report: failure.report })
    }

    async fn intents(&self) -> Result<Vec<IntentRecord>> {
        let intents = Engine::intents(self).await?;
        Ok(intents
            .into_iter()
            .map(|intent| IntentRecord {
                model: intent.model,
                number: intent.number,
                run: intent.run,
                at: intent.at,
                report: intent.report,
            })
            .collect())
    }
}
