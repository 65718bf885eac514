//! Carries Job plans out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::events::EventType;

use super::{Plan, Snapshot, owner, plan, pod_for};
use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, wake, writes};

/// The Job controller.
pub(crate) struct Jobs {
    recorder: Recorder,
}

impl Jobs {
    pub(crate) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.jobs, queue);
        wake::owners(&world.pods, &world.jobs, "Job", queue, |job| {
            job.spec.as_ref().and_then(|spec| spec.selector.as_ref())
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(job) = world.jobs.at(key) else { return Ok(None) };
        let pods = world.pods.list(&key.namespace);
        let plan = plan(&Snapshot { job: &job, pods: &pods }, Timestamp::now());
        if plan.expire {
            writes::remove(world, &world.jobs, &*job).await?;
            return Ok(None);
        }
        // Written first: what ended the Job must be known before its pods go, and a start time
        // before its deadline counts.
        if let Some(status) = &plan.status {
            let before = job.status.as_ref();
            writes::status(world, &world.jobs, &job.metadata, before, status).await?;
        }
        self.act(world, &job, &plan).await?;
        for note in plan.notes {
            let failed = matches!(note.reason, "BackoffLimitExceeded" | "DeadlineExceeded");
            let type_ = if failed { EventType::Warning } else { EventType::Normal };
            self.recorder.tell(&*job, type_, note).await;
        }
        Ok(plan.again)
    }
}

impl Jobs {
    async fn act(&self, world: &World, job: &Job, plan: &Plan) -> Result<(), Error> {
        let reference = owner(&job.metadata);
        writes::adopt(world, &world.pods, &plan.adopt, job, &reference).await?;
        let uid = job.metadata.uid.as_ref();
        writes::release(world, &world.pods, &plan.release, uid).await?;
        let pods = plan.create.iter().filter_map(|index| pod_for(job, *index)).collect();
        let (made, refused) = writes::create(world, pods).await;
        for pod in &made {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let note = Note { reason: "SuccessfulCreate", message: format!("Created pod: {name}") };
            self.recorder.tell(job, EventType::Normal, note).await;
        }
        if let Some(error) = refused {
            let note = Note { reason: "FailedCreate", message: format!("Error creating: {error}") };
            self.recorder.tell(job, EventType::Warning, note).await;
            return Err(error.into());
        }
        let (gone, refused) = writes::delete(world, &plan.delete).await;
        for name in gone {
            let note = Note { reason: "SuccessfulDelete", message: format!("Deleted pod: {name}") };
            self.recorder.tell(job, EventType::Normal, note).await;
        }
        refused.map_or(Ok(()), |error| Err(error.into()))
    }
}
