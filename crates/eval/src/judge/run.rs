//! Generations in, `scores.parquet` out. Batch by batch: answers become requests, those that the cache does not hold are
//! asked, and replies become scores. Order is that of the input, so the bytes do not depend on who answered first; memory
//! is bounded by the largest batch and the baseline's answers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use artifact::parquet::Writer;
use artifact::schema::SCORES;
use artifact::{Bar, Context, bail_user};

use super::ask::{Answer, Asker};
use super::cache::{Cache, Request};
use super::court::Court;
use super::endpoint::Endpoint;
use super::rows::{Texts, reading};
use super::summary::{Estimate, Summary};
use super::{Config, URL_VARIABLE};

/// Requests that may fail before a run stops at once, whatever the share.
const FAILURES: u64 = 10;

/// One judge at a time asks from this process, so that jobs side by side keep to one rate.
static ASKING: Mutex<()> = Mutex::new(());

/// Judges the answers of `generations` into `out/scores.parquet`. The baseline stands among them or in `against`, whose
/// other answers are not judged.
///
/// # Errors
/// A user error for settings, inputs and what the endpoint refuses for good. Where too many requests fail, the replies so
/// far are kept and the next run goes on from there.
pub fn run(
    config: &Config,
    generations: &[PathBuf],
    against: &[PathBuf],
    out: &Path,
    ctx: &Context,
) -> Result<Summary> {
    let reading = reading(config)?;
    let court = Court::new(config, &reading, generations, against, ctx)?;
    let estimate = court.estimate(ctx)?;
    let to_ask = estimate.requests - estimate.cached;
    let asker = match (to_ask, config.endpoint()) {
        (0, _) => None,
        (_, Some(url)) => {
            Some(Asker::new(Endpoint::new(&url, config)?, court.cache.clone(), config))
        }
        (_, None) => bail_user!(
            "there is no endpoint to ask: give base_url, or set {URL_VARIABLE} to the address of an OpenAI-compatible \
             server such as http://localhost:8000/v1"
        ),
    };
    let _turn = wait_for_turn(ctx)?;
    let bar = ctx.bar("judge", "requests", Some(to_ask));
    let limit = (config.max_failed * estimate.requests as f64).floor() as u64;
    let mut asking = Asking { asker, bar, limit, config, failed: HashMap::new() };
    let mut summary = Summary::new(&config.model, estimate.requests);
    let mut writer = Writer::create(&out.join("scores.parquet"), &SCORES)?;
    court.each_batch(ctx, |input, batch, ids| {
        let texts = Texts::of(batch)?;
        let docket = court.docket(&texts, ids, input.path())?;
        let answers = asking.answers(&docket.requests, &court.cache, &mut summary, ctx)?;
        let scores = court.scores(&docket, &answers, &texts, ids, &mut summary);
        writer.write(&court.frame(batch, ids, &scores, input.path())?)
    })?;
    writer.finish()?;
    asking.bar.finish();
    if summary.failed > limit {
        return Err(too_many(&summary, config, ""));
    }
    if summary.malformed * 10 > summary.requests {
        ctx.warn(format!(
            "{} of {} replies of the judge have no clear verdict; look at the column `detail`, and at the prompt",
            summary.malformed, summary.requests
        ));
    }
    Ok(summary)
}

/// How much [`run`] would ask for, without asking.
///
/// # Errors
/// A user error for settings and inputs.
pub fn estimate(
    config: &Config,
    generations: &[PathBuf],
    against: &[PathBuf],
    ctx: &Context,
) -> Result<Estimate> {
    let reading = reading(config)?;
    Court::new(config, &reading, generations, against, ctx)?.estimate(ctx)
}

/// Waits until no other step of this process asks a judge.
fn wait_for_turn(ctx: &Context) -> Result<MutexGuard<'static, ()>> {
    loop {
        match ASKING.try_lock() {
            Ok(turn) => return Ok(turn),
            Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
            Err(TryLockError::WouldBlock) => {
                ctx.check()?;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn too_many(summary: &Summary, config: &Config, last: &str) -> anyhow::Error {
    let last = if last.is_empty() { String::new() } else { format!("; the last: {last}") };
    anyhow!(
        "{} of {} requests to the judge failed, more than max_failed = {} allows{last}. What was answered is kept: the \
         same command asks for the rest alone",
        summary.failed,
        summary.requests,
        config.max_failed,
    )
}

/// Asking, with what was asked before in this run.
struct Asking<'a> {
    asker: Option<Asker>,
    bar: Bar,
    limit: u64,
    config: &'a Config,
    /// What failed, so that the same request is not tried again in a later batch.
    failed: HashMap<String, String>,
}

impl Asking<'_> {
    /// The answers to all requests of a docket.
    fn answers(
        &mut self,
        requests: &[Request],
        cache: &Cache,
        summary: &mut Summary,
        ctx: &Context,
    ) -> Result<Vec<Answer>> {
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(requests.len());
        let mut missing: Vec<usize> = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            let failed = self.failed.get(&request.key).map(|why| Err(why.clone()));
            let answer = failed.or_else(|| cache.get(request).map(Ok));
            if answer.is_none() {
                missing.push(at);
            }
            answers.push(answer);
        }
        summary.asked += missing.len() as u64;
        let (bar, limit, config) = (&self.bar, self.limit, self.config);
        let to_ask: Vec<Request> = missing.iter().map(|&at| requests[at].clone()).collect();
        let asked = match &self.asker {
            _ if to_ask.is_empty() => Vec::new(),
            None => bail!("a reply that was in the judge's cache is gone; run again"),
            Some(asker) => asker.ask(to_ask, ctx, |answer| {
                match answer {
                    Ok(reply) => summary.paid(reply, config.price),
                    Err(_) => summary.failed += 1,
                }
                bar.note(&summary.note());
                bar.inc(1);
                match answer {
                    Err(why) if summary.failed > limit.max(FAILURES) => {
                        Err(too_many(summary, config, why))
                    }
                    _ => Ok(()),
                }
            })?,
        };
        for (at, answer) in missing.into_iter().zip(asked) {
            if let Err(why) = &answer {
                self.failed.insert(requests[at].key.clone(), why.clone());
            }
            answers[at] = Some(answer);
        }
        let answers: Vec<Answer> = answers.into_iter().flatten().collect();
        summary.served.extend(answers.iter().flatten().filter_map(|reply| reply.model.clone()));
        Ok(answers)
    }
}
