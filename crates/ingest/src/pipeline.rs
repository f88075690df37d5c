//! The two passes. Blocks of rows flow from a reading thread through rayon's to a writing one, in input order, so that the
//! output is the same for any number of threads; how many are under way at once is bounded, and so is memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Result, anyhow};
use artifact::error::user;
use artifact::example::frame_to_examples;
use artifact::parquet::Writer;
use artifact::schema::{EXAMPLES, REJECTS};
use artifact::{Bar, Context, Example};
use polars::prelude::{BooleanChunked, DataFrame, NewChunkedArray};
use rayon::prelude::*;

use crate::batch::{Batch, Reading};
use crate::config::Dedup;
use crate::plan::Plan;
use crate::rejects::{Refusal, Reject, frame, shown};
use crate::rows::{FILE, LINE, Output, take};
use crate::spill::{Dropped, Spill};
use crate::summary::{Counts, Summary};

/// Runs a checked plan.
pub(crate) fn run(plan: &Plan, out: &Path, scratch: &Path, ctx: &Context) -> Result<Summary> {
    let near = plan.sources.iter().any(|source| source.dedup == Dedup::Near);
    let mut spill = Spill::new(scratch, near)?;
    let mut rejects = Writer::create(&out.join("rejects.parquet"), &REJECTS)?;
    let mut counts = first_pass(plan, scratch, &mut spill, &mut rejects, ctx)?;
    check_taken(plan, &counts)?;
    let dropped = spill.resolve(ctx)?;
    second_pass(plan, &spill, &dropped, out, &mut rejects, &mut counts, ctx)?;
    rejects.finish()?;
    Ok(counts.summary())
}

/// Reads everything: rows to the spill, rejects to their file.
fn first_pass(
    plan: &Plan,
    scratch: &Path,
    spill: &mut Spill,
    rejects: &mut Writer,
    ctx: &Context,
) -> Result<Counts> {
    let bytes =
        plan.files.iter().filter_map(|file| file.path.metadata().ok()).map(|data| data.len()).sum();
    let bar = ctx.bar("ingest", "B", Some(bytes));
    let threads = rayon::current_num_threads();
    let (send_batch, batches) = sync_channel(2 * threads);
    let (send_output, outputs) = sync_channel(2 * threads);
    let counts = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(plan, scratch, send_batch, &bar, ctx));
        let writer = scope.spawn(move || write(outputs, spill, rejects));
        let worked = work(plan, &batches, &send_output, 2 * threads);
        // Ends the other two threads, whichever of the three has failed.
        drop((batches, send_output));
        let read = reader.join().map_err(|_| anyhow!("the reading thread panicked"))?;
        let written = writer.join().map_err(|_| anyhow!("the writing thread panicked"))?;
        let counts = written?;
        worked?;
        read?;
        anyhow::Ok(counts)
    });
    bar.finish();
    counts
}

/// Reads all files in order. Where nobody takes batches any more, the cause is the other threads' to tell.
fn read(
    plan: &Plan,
    scratch: &Path,
    send: SyncSender<(usize, Batch)>,
    bar: &Bar,
    ctx: &Context,
) -> Result<()> {
    for (index, file) in plan.files.iter().enumerate() {
        let source = &plan.sources[file.source];
        let reading = Reading {
            path: &file.path,
            format: &source.format,
            encoding: source.encoding,
            parallel: &file.parallel,
            max_row_bytes: plan.max_row_bytes,
            scratch,
            bar: Some(bar),
        };
        let mut checked = false;
        reading.batches(&mut |batch| {
            ctx.check()?;
            if let (false, Some(columns)) = (checked, batch.columns()) {
                source.check_columns(&columns, &file.path)?;
            }
            checked = true;
            send.send((index, batch)).map_err(|_| anyhow!("nobody takes batches any more"))
        })?;
    }
    Ok(())
}

/// Takes batches apart, some at once, and hands them on in order.
fn work(
    plan: &Plan,
    batches: &Receiver<(usize, Batch)>,
    send: &SyncSender<Output>,
    at_once: usize,
) -> Result<()> {
    while let Ok(first) = batches.recv() {
        let some: Vec<(usize, Batch)> =
            std::iter::once(first).chain(batches.try_iter().take(at_once - 1)).collect();
        let outputs: Vec<Result<Output>> =
            some.into_par_iter().map(|(file, batch)| take(plan, file, &batch)).collect();
        for output in outputs {
            if send.send(output?).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn write(outputs: Receiver<Output>, spill: &mut Spill, rejects: &mut Writer) -> Result<Counts> {
    let mut counts = Counts::default();
    for output in outputs {
        counts.merge(output.counts);
        if !output.rejects.is_empty() {
            rejects.write(&frame(&output.rejects)?)?;
        }
        spill.add(output.examples, &output.prints)?;
    }
    Ok(counts)
}

/// A source of which no row is taken is set up wrongly.
fn check_taken(plan: &Plan, counts: &Counts) -> Result<()> {
    for source in &plan.sources {
        let Some(met) = counts.sources.get(&source.name).filter(|met| met.taken == 0) else {
            continue;
        };
        if let Some(first) = &met.first {
            return Err(user(format!(
                "source `{}`: none of its {} rows can be taken; {}, line {}: {}",
                source.name,
                met.refused,
                first.file,
                first.line,
                first.refusal.text()
            )));
        }
    }
    Ok(())
}

/// Writes the rows that stay to `examples.parquet`, and those that repeat another to the rejects.
fn second_pass(
    plan: &Plan,
    spill: &Spill,
    dropped: &[Dropped],
    out: &Path,
    rejects: &mut Writer,
    counts: &mut Counts,
    ctx: &Context,
) -> Result<()> {
    let mut examples = Writer::create(&out.join("examples.parquet"), &EXAMPLES)?;
    // The ids of rows that others repeat, as they come by.
    let mut kept: HashMap<u64, String> = dropped.iter().map(|d| (d.kept, String::new())).collect();
    let mut left = dropped;
    spill.replay(&mut |first, mut rows| {
        ctx.check()?;
        let here = left.partition_point(|dropped| dropped.row < first + rows.height() as u64);
        let (gone, later) = left.split_at(here);
        left = later;
        if !kept.is_empty() {
            for (row, id) in (first..).zip(rows.column("example_id")?.str()?.iter()) {
                if let Some(kept) = kept.get_mut(&row) {
                    *kept = id.unwrap_or_default().to_string();
                }
            }
        }
        if !gone.is_empty() {
            let mut stays = vec![true; rows.height()];
            gone.iter().for_each(|dropped| stays[(dropped.row - first) as usize] = false);
            let stays = BooleanChunked::from_slice("stays".into(), &stays);
            let repeats = repeats(plan, &rows.filter(&!&stays)?, gone, &kept)?;
            for (example, reject) in &repeats {
                counts.untake(example);
                counts.reject(reject);
            }
            let repeats: Vec<Reject> = repeats.into_iter().map(|(_, reject)| reject).collect();
            rejects.write(&frame(&repeats)?)?;
            rows = rows.filter(&stays)?;
        }
        examples.write(&rows.drop_many([FILE, LINE]))
    })?;
    examples.finish()
}

/// The rejects of rows that repeat another.
fn repeats(
    plan: &Plan,
    rows: &DataFrame,
    dropped: &[Dropped],
    kept: &HashMap<u64, String>,
) -> Result<Vec<(Example, Reject)>> {
    let (files, lines) = (rows.column(FILE)?.u32()?, rows.column(LINE)?.i64()?);
    let examples = frame_to_examples(rows)?.into_iter().zip(dropped).enumerate();
    let rejects = examples.map(|(index, (example, dropped))| {
        let file = &plan.files[files.get(index).unwrap_or_default() as usize];
        let said: Vec<&str> = example.messages.iter().map(|m| m.content.as_str()).collect();
        let of = kept.get(&dropped.kept).map_or("", String::as_str);
        let reject = Reject {
            source: example.source.clone(),
            file: file.path.display().to_string(),
            line: lines.get(index).unwrap_or_default() as u64,
            refusal: Refusal::new(dropped.reason, format!("of {of}")),
            raw: shown(said.join("\n").as_bytes()),
        };
        (example, reject)
    });
    Ok(rejects.collect())
}
