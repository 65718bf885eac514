//! An App's work by the clock, as CronJobs.

use berth_api::app::{AppSpec, Cron};
use berth_api::labels;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{pod, sizes};

/// A CronJob for each of the App's schedules.
pub fn cron_jobs(spec: &AppSpec, name: &str, meta: &ObjectMeta) -> Vec<CronJob> {
    spec.cron.iter().map(|cron| cron_job(spec, name, meta, cron)).collect()
}

fn cron_job(spec: &AppSpec, name: &str, meta: &ObjectMeta, cron: &Cron) -> CronJob {
    let mut meta = meta.clone();
    let whole = format!("{name}-{}", cron.name);
    let labels = meta.labels.get_or_insert_default();
    // No pod of it is an instance of the App: neither Service nor Deployment may pick it.
    labels.insert(labels::INSTANCE.to_owned(), whole.clone());
    labels.insert(labels::COMPONENT.to_owned(), "cron".to_owned());
    meta.name = Some(whole);
    let worker = pod::worker(spec, name);
    let filled = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let mut template = pod::base(spec, name);
    template.restart_policy = Some("Never".to_owned());
    template.containers = vec![Container {
        command: filled(&cron.command),
        args: filled(&cron.args),
        // Disks belong to instances.
        volume_mounts: worker.volume_mounts.map(|mounts| {
            let disk = |name: &str| spec.storage.iter().any(|disk| disk.name == name);
            mounts.into_iter().filter(|mount| !disk(&mount.name)).collect()
        }),
        ..worker
    }];
    sizes::tell(&mut template, spec);
    CronJob {
        metadata: meta.clone(),
        spec: CronJobSpec {
            schedule: cron.schedule.clone(),
            time_zone: cron.time_zone.clone(),
            concurrency_policy: Some(
                cron.concurrency.clone().unwrap_or_else(|| "Forbid".to_owned()),
            ),
            suspend: Some(cron.suspend),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta { labels: meta.labels.clone(), ..ObjectMeta::default() }),
                spec: Some(JobSpec {
                    backoff_limit: Some(0),
                    active_deadline_seconds: cron.deadline_seconds,
                    template: PodTemplateSpec {
                        metadata: Some(ObjectMeta {
                            labels: meta.labels.clone(),
                            annotations: pod::annotations(spec, name),
                            ..ObjectMeta::default()
                        }),
                        spec: Some(template),
                    },
                    ..JobSpec::default()
                }),
            },
            ..CronJobSpec::default()
        },
        ..CronJob::default()
    }
}
