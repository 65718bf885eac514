//! Carries CronJob plans out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::{Api, PostParams};
use kube::runtime::events::EventType;

use super::{Snapshot, plan, reference};
use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, wake, writes};

/// However far the next moment is: the waiting clock stands still while a machine sleeps.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The CronJob controller.
pub(crate) struct CronJobs {
    recorder: Recorder,
}

impl CronJobs {
    pub(crate) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.cron_jobs, queue);
        wake::owners(&world.jobs, &world.cron_jobs, "CronJob", queue, |_| None);
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(cron) = world.cron_jobs.at(key) else { return Ok(None) };
        let jobs = world.jobs.list(&key.namespace);
        let mut plan = plan(&Snapshot { cron: &cron, jobs: &jobs }, Timestamp::now());
        for note in std::mem::take(&mut plan.notes) {
            self.tell(&cron, note).await;
        }
        for job in &plan.delete {
            writes::remove(world, &world.jobs, &**job).await?;
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Deleted job {name}");
            self.tell(&cron, Note { reason: "SuccessfulDelete", message }).await;
        }
        // The Job before the status: its name keeps it from being made twice, and a moment that the
        // status calls served would never be served.
        if let Some(job) = &plan.create {
            self.make(world, &cron, job, &mut plan.status).await?;
        }
        let before = cron.status.as_ref();
        writes::status(world, &world.cron_jobs, &cron.metadata, before, &plan.status).await?;
        Ok(plan.again.map(|wait| wait.min(LONGEST_WAIT)))
    }
}

impl CronJobs {
    async fn make(
        &self,
        world: &World,
        cron: &CronJob,
        job: &Job,
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        let api: Api<Job> = world.api(job.metadata.namespace.as_deref().unwrap_or_default());
        match api.create(&PostParams::default(), job).await {
            Ok(made) => {
                let name = made.metadata.name.as_deref().unwrap_or_default();
                let message = format!("Created job {name}");
                self.tell(cron, Note { reason: "SuccessfulCreate", message }).await;
                status.active.get_or_insert_default().push(reference(&made));
                world.jobs.remember(made);
                Ok(())
            }
            // Made in an earlier run whose answer was lost, or somebody else's of that name: the
            // moment is served either way.
            Err(kube::Error::Api(refusal)) if refusal.reason == "AlreadyExists" => Ok(()),
            Err(error) => {
                let message = format!("Error creating job: {error}");
                self.tell(cron, Note { reason: "FailedCreate", message }).await;
                Err(error.into())
            }
        }
    }

    async fn tell(&self, cron: &CronJob, note: Note) {
        const FINE: [&str; 4] =
            ["SuccessfulCreate", "SuccessfulDelete", "SawCompletedJob", "JobAlreadyActive"];
        let fine = FINE.contains(&note.reason);
        let type_ = if fine { EventType::Normal } else { EventType::Warning };
        self.recorder.tell(cron, type_, note).await;
    }
}
