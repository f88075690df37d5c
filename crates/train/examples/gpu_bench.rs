//! Times the engine on a card, one JSON object a line: the half of `make bench-gpu` that is ours.
//! `benches/gpu.py` runs it beside PyTorch and writes the table.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use train::cuda::Card;
use train::cuda::bench::{self, Plan};
use train::cuda::driver::Driver;
use train::cuda::emulator::Emulator;
use train::cuda::nvrtc::Nvrtc;

const HELP: &str = "\
Times the engine on a card; one JSON object a line, the machine first.

    gpu_bench [--only PART[,PART...]] [--minutes M] [--runs N] [--seconds S] [--pause MS]
              [--device cuda|emulation] [--list]

    --only      parts to run; --list prints their names
    --minutes   no measurement begins after so many; default: no bound
    --runs      most runs of a measurement; default 40
    --seconds   most seconds of a measurement; default 0.6
    --pause     milliseconds of rest before each; default 200
    --device    cuda (default), or emulation: tiny shapes on this host, which say nothing of speed

Examples:
    gpu_bench --only gemm,attention --minutes 5
    gpu_bench --device emulation";

struct Options {
    plan: Plan,
    only: Vec<String>,
    emulation: bool,
}

fn options() -> Result<Option<Options>> {
    let mut options = Options { plan: Plan::card(), only: Vec::new(), emulation: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{name} what?"));
        let plan = &mut options.plan;
        match &name[..] {
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--minutes" => {
                let minutes: f64 = value()?.parse().context("--minutes")?;
                plan.until = Some(Instant::now() + Duration::try_from_secs_f64(60.0 * minutes)?);
            }
            "--runs" => plan.runs = value()?.parse::<usize>().context("--runs")?.max(1),
            "--seconds" => plan.seconds = value()?.parse().context("--seconds")?,
            "--pause" => plan.pause = Duration::from_millis(value()?.parse().context("--pause")?),
            "--device" => {
                options.emulation = match &value()?[..] {
                    "cuda" => false,
                    "emulation" => true,
                    other => bail!("--device {other}: cuda or emulation"),
                }
            }
            "--list" => {
                println!("{}", bench::sections().join("\n"));
                return Ok(None);
            }
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(None);
            }
            _ => bail!("{name} is no option of this program; --help lists them"),
        }
    }
    if options.emulation {
        options.plan = Plan { until: options.plan.until, ..Plan::tiny() };
    }
    Ok(Some(options))
}

fn main() -> Result<ExitCode> {
    let Some(Options { plan, only, emulation }) = options()? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (driver, card): (Arc<dyn Driver>, _) = if emulation {
        (Arc::new(Emulator::new((9, 0)).context("there is no C++ compiler")?), None)
    } else {
        let card = Arc::new(Card::open(0)?);
        (Arc::clone(&card) as Arc<dyn Driver>, Some(card))
    };
    let facts = driver.facts();
    let nvrtc = (!emulation).then(Nvrtc::get).transpose()?;
    let nvrtc =
        nvrtc.map(|n| format!("NVRTC {}.{} ({})", n.version.0, n.version.1, n.path.display()));
    println!(
        "{}",
        json!({"section": "machine", "name": facts.name, "multiprocessors": facts.multiprocessors,
            "capability": facts.capability, "memory": facts.memory, "compiler": nvrtc})
    );
    let mut failures = 0;
    let mut each = |row| println!("{}", json!(row));
    let mut failed = |section: &str, error: &anyhow::Error| {
        failures += 1;
        println!("{}", json!({"section": section, "error": format!("{error:#}")}));
    };
    bench::run(&driver, card.as_deref(), plan, &only, &mut each, &mut failed)?;
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
