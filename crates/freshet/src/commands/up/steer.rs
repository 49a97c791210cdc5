//! The jobs of `freshet up`: each is run, and run again as people ask for it, until it ends.
//!
//! A job is changed by ending it at a barrier and beginning it again from there: all that was read
//! before is committed by then.

use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::clock::Clock;
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result};
use freshet_engine::streaming::{StreamJob, StreamOptions};
use freshet_runtime::checkpoint::{Repository, check_name};
use freshet_runtime::executor::Threads;
use freshet_runtime::figures::JobFigures;
use freshet_runtime::job::{Ended, Environment, Job, JobHandle, JobOptions};
use freshet_runtime::monitor::JobMonitor;
use freshet_serve::{Jobs, Restored, Saved, is_called};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Changes of one job that wait for each other.
const CHANGES: usize = 4;

/// What all jobs of the process are run with.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The project.
    pub app: App,
    /// How jobs are planned; the parallelism is that of the beginning.
    pub stream: StreamOptions,
    /// How they are run.
    pub options: JobOptions,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where checkpoints are.
    pub store: Arc<dyn ObjectStore>,
}

/// A job of this process, whichever life it is in.
#[derive(Debug)]
pub struct Supervised {
    /// Its model.
    pub model: ModelId,
    setting: Setting,
    life: Mutex<Life>,
    changes: mpsc::Sender<Change>,
}

/// What of a job is new with each planning.
#[derive(Debug, Clone)]
struct Life {
    planned: Arc<StreamJob>,
    handle: JobHandle,
    monitor: JobMonitor,
    parallelism: u16,
    stopping: bool,
}

/// What people ask for, and where the answer goes.
#[derive(Debug)]
struct Change {
    what: What,
    answer: oneshot::Sender<Result<Option<Restored>>>,
}

#[derive(Debug, Clone)]
enum What {
    Rescale(u16),
    Restore { from: String, allow_duplicates: bool },
}

/// A job that is planned and not yet run.
#[derive(Debug)]
pub struct Ready {
    job: Job,
    changes: mpsc::Receiver<Change>,
}

impl Supervised {
    /// Plans a job.
    pub async fn plan(model: &ModelId, setting: &Setting) -> Result<(Arc<Self>, Ready)> {
        let (job, life) = begin(model, setting, setting.stream.parallelism).await?;
        let (sender, changes) = mpsc::channel(CHANGES);
        let supervised = Arc::new(Self {
            model: model.clone(),
            setting: setting.clone(),
            life: Mutex::new(life),
            changes: sender,
        });
        Ok((supervised, Ready { job, changes }))
    }

    /// The job as it is planned now.
    pub fn planned(&self) -> Arc<StreamJob> {
        Arc::clone(&self.life.lock().planned)
    }

    /// What it says of itself.
    pub fn figures(&self) -> JobFigures {
        let monitor = self.life.lock().monitor.clone();
        monitor.figures()
    }

    /// Asks it to end: what was read is carried through and committed.
    pub fn stop(&self) {
        let mut life = self.life.lock();
        life.stopping = true;
        life.handle.drain();
    }

    /// Runs it to its end.
    pub async fn run(&self, ready: Ready) -> Result<Ended> {
        let Ready { mut job, mut changes } = ready;
        loop {
            let (ended, change) = self.live(&mut job, &mut changes).await;
            let Some(Change { what, answer }) = change else { return ended };
            let stopping = self.life.lock().stopping;
            match ended {
                Ok(Ended::Drained) if !stopping => {}
                ended => {
                    // Whoever asked may have gone.
                    let _ = answer.send(Err(gone(&self.model)));
                    return ended;
                }
            }
            let changed = self.change(what).await;
            let parallelism = self.life.lock().parallelism;
            match begin(&self.model, &self.setting, parallelism).await {
                Ok((next, life)) => {
                    job = next;
                    *self.life.lock() = life;
                    let _ = answer.send(changed);
                }
                Err(error) => {
                    let _ = answer.send(Err(gone(&self.model)));
                    return Err(error);
                }
            }
        }
    }

    /// One life, to its end, and the change for whose sake it ended.
    async fn live(
        &self,
        job: &mut Job,
        changes: &mut mpsc::Receiver<Change>,
    ) -> (Result<Ended>, Option<Change>) {
        let running = job.run();
        tokio::pin!(running);
        loop {
            let change = tokio::select! {
                ended = running.as_mut() => return (ended, None),
                Some(change) = changes.recv() => change,
            };
            let checked = tokio::select! {
                ended = running.as_mut() => return (ended, Some(change)),
                checked = self.check(&change.what) => checked,
            };
            match checked {
                Ok(()) => {
                    self.life.lock().handle.drain();
                    return (running.await, Some(change));
                }
                Err(error) => {
                    let _ = change.answer.send(Err(error));
                }
            }
        }
    }

    /// Whether a change can be made, as far as it is known while the job runs.
    async fn check(&self, what: &What) -> Result<()> {
        match what {
            What::Restore { from, allow_duplicates } => {
                self.repository().check_restore(from, *allow_duplicates).await.map(|_| ())
            }
            What::Rescale(parallelism) => {
                let most = self.planned().plan.groups.count();
                if (1..=most).contains(parallelism) {
                    return Ok(());
                }
                Err(Error::new(
                    code::CONTROL,
                    format!("job \"{}\" cannot have {parallelism} tasks a stage", self.model),
                )
                .hint(format!("its keys are in {most} groups: take 1 to {most}")))
            }
        }
    }

    /// Makes a change while the job does not run.
    async fn change(&self, what: What) -> Result<Option<Restored>> {
        match what {
            What::Rescale(parallelism) => {
                self.life.lock().parallelism = parallelism;
                Ok(None)
            }
            What::Restore { from, allow_duplicates } => {
                let now = self.setting.clock.now_micros();
                let restored = self.repository().restore(&from, allow_duplicates, now).await?;
                let (epoch, is_newest) = (restored.epoch, restored.is_newest);
                Ok(Some(Restored { from, epoch, is_newest }))
            }
        }
    }

    fn repository(&self) -> Repository {
        Repository::new(Arc::clone(&self.setting.store), &self.planned().plan.name)
    }

    async fn ask(&self, what: What) -> Result<Option<Restored>> {
        let (answer, answered) = oneshot::channel();
        let change = Change { what, answer };
        self.changes.try_send(change).map_err(|_| gone(&self.model))?;
        answered.await.map_err(|_| gone(&self.model))?
    }
}

/// Plans the next life of a job.
async fn begin(model: &ModelId, setting: &Setting, parallelism: u16) -> Result<(Job, Life)> {
    let stream = StreamOptions { parallelism, ..setting.stream.clone() };
    let planned = Arc::new(setting.app.engine.stream_job(model, &stream).await?);
    let environment = Environment {
        clock: Arc::clone(&setting.clock),
        io: Arc::clone(&setting.stream.io),
        store: Arc::clone(&setting.store),
    };
    let workers = usize::from(parallelism);
    let threads = Threads::new(model.as_str(), workers, Arc::clone(&setting.clock));
    let plan = planned.plan.clone();
    let job = Job::new(plan, setting.options.clone(), environment, Box::new(threads))?;
    let life = Life {
        planned,
        handle: job.handle(),
        monitor: job.monitor(),
        parallelism,
        stopping: false,
    };
    Ok((job, life))
}

fn gone(model: &ModelId) -> Error {
    Error::new(code::CONTROL, format!("job \"{model}\" does not run, or is being changed"))
        .hint("`freshet jobs` says what it is at")
}

/// The jobs of this process, for the listener.
#[derive(Debug, Default)]
pub struct Running {
    jobs: Mutex<Vec<Arc<Supervised>>>,
    /// Cancelled once they are told to stop.
    pub stopping: CancellationToken,
}

impl Running {
    /// One more runs.
    pub fn add(&self, job: Arc<Supervised>) {
        self.jobs.lock().push(job);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Supervised>> {
        self.jobs.lock().clone()
    }

    /// Lets all carry through what they have read.
    pub fn stop(&self) {
        self.stopping.cancel();
        self.all().iter().for_each(|job| job.stop());
    }

    fn find(&self, name: &str) -> Result<Arc<Supervised>> {
        let jobs = self.all();
        let found = jobs.iter().find(|job| is_called(&job.planned().plan.name, name));
        found.cloned().ok_or_else(|| {
            let error = Error::new(code::REFERENCE, format!("no job \"{name}\" runs here"));
            let names: Vec<_> = jobs.iter().map(|job| job.model.as_str()).collect();
            error.hint(format!("there are: {}", names.join(", ")))
        })
    }
}

#[async_trait]
impl Jobs for Running {
    fn figures(&self) -> Vec<JobFigures> {
        self.all().iter().map(|job| job.figures()).collect()
    }

    async fn savepoint(&self, job: &str, name: &str) -> Result<Saved> {
        check_name(name)?;
        let job = self.find(job)?;
        let handle = job.life.lock().handle.clone();
        let epoch = handle.savepoint(name).await?;
        Ok(Saved { name: name.to_owned(), epoch })
    }

    async fn restore(&self, job: &str, from: &str, allow_duplicates: bool) -> Result<Restored> {
        check_name(from)?;
        let job = self.find(job)?;
        let from = from.to_owned();
        let restored = job.ask(What::Restore { from, allow_duplicates }).await?;
        restored.ok_or_else(|| Error::internal("a job was restored without saying from where"))
    }

    async fn rescale(&self, job: &str, parallelism: u16) -> Result<()> {
        let job = self.find(job)?;
        job.ask(What::Rescale(parallelism)).await.map(|_| ())
    }
}
