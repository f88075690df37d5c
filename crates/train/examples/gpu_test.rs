//! Holds every kernel and the whole engine on a card to the processor's: `make test-gpu`.
//!
//! On a Hopper card the suite runs twice, with Hopper's kernels and with those for Ampere. A line a
//! comparison, a summary at the end; exit status 1 where something failed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use train::cuda::driver::Driver as _;
use train::cuda::emulator::Emulator;
use train::cuda::kernels::FILES;
use train::cuda::nvrtc::Nvrtc;
use train::cuda::suite::{self, Outcome, Size};
use train::cuda::{Card, Cuda};

const HELP: &str = "\
Holds the CUDA kernels and the engine over them to the processor's engine, on fresh random data.

    gpu_test [--only CASE[,CASE...]] [--size full|small] [--forms all|native|sm80] [--seed N]
             [--device cuda|emulation] [--failures] [--list] [--compile ARCHITECTURE]

    --only      cases to run; --list prints their names
    --size      full (default), or small: for compute-sanitizer and the emulation
    --forms     on a Hopper card: all (default), its own kernels (native), or those for Ampere (sm80)
    --seed      decides all random numbers; a new one each time, which is printed
    --device    cuda (default), or emulation: the kernels on this host, as a card of both kinds
    --failures  print only what failed
    --compile   compiles all kernels into the cache for sm_90a, sm_89 or sm_80, and ends; needs no card

Examples:
    gpu_test
    gpu_test --only attention,norms --seed 7
    compute-sanitizer --tool racecheck gpu_test --size small --only products,attention
    gpu_test --device emulation --size small --only gates";

struct Options {
    only: Vec<String>,
    size: Size,
    forms: String,
    seed: u64,
    device: String,
    failures: bool,
}

fn options() -> Result<Option<Options>> {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let mut options = Options {
        only: Vec::new(),
        size: Size::Full,
        forms: "all".to_owned(),
        seed: clock.as_secs() % 1_000_000,
        device: "cuda".to_owned(),
        failures: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{name} what?"));
        match &name[..] {
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--size" => {
                options.size = match &value()?[..] {
                    "full" => Size::Full,
                    "small" => Size::Small,
                    other => bail!("--size {other}: full or small"),
                }
            }
            "--forms" => options.forms = value()?,
            "--seed" => options.seed = value()?.parse().context("--seed")?,
            "--device" => options.device = value()?,
            "--failures" => options.failures = true,
            "--compile" => {
                compile(&value()?)?;
                return Ok(None);
            }
            "--list" => {
                println!("{}", suite::cases().join("\n"));
                return Ok(None);
            }
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(None);
            }
            _ => bail!("{name} is no option of this program; --help lists them"),
        }
    }
    Ok(Some(options))
}

/// Puts every kernel that an architecture has into the cache.
fn compile(architecture: &str) -> Result<()> {
    let (nvrtc, started) = (Nvrtc::get()?, Instant::now());
    for file in FILES.iter().filter(|file| !file.hopper || architecture == "sm_90a") {
        nvrtc.cubin(file, architecture)?;
    }
    let ((major, minor), seconds) = (nvrtc.version, started.elapsed().as_secs_f64());
    println!("compiled for {architecture} by NVRTC {major}.{minor} in {seconds:.0} s");
    Ok(())
}

/// The device in each form that is to be tested, by name.
fn devices(options: &Options) -> Result<Vec<(String, Cuda)>> {
    let forms: &[(u32, u32)] = match &options.forms[..] {
        "all" => &[(9, 0), (8, 0)],
        "native" => &[(9, 0)],
        "sm80" => &[(8, 0)],
        other => bail!("--forms {other}: all, native or sm80"),
    };
    if options.device == "emulation" {
        let of = |&(major, minor): &(u32, u32)| {
            let device = Emulator::new((major, minor)).context("there is no C++ compiler")?;
            Ok((format!("emulation sm_{major}{minor}"), Cuda::new(Arc::new(device))))
        };
        return forms.iter().map(of).collect();
    }
    ensure!(options.device == "cuda", "--device {}: cuda or emulation", options.device);
    let nvrtc = Nvrtc::get()?;
    println!("NVRTC {}.{}, {}", nvrtc.version.0, nvrtc.version.1, nvrtc.path.display());
    let (major, minor) = Card::open(0)?.native();
    let mut all = Vec::new();
    for &form in forms {
        // Cards other than Hopper's have one form, that of Ampere.
        if form == (9, 0) && major != 9 {
            continue;
        }
        let card = Card::open(0)?.posing_as(form);
        let facts = card.facts();
        println!("{}, {} multiprocessors", facts.name, facts.multiprocessors);
        let name =
            format!("{} (sm_{major}{minor}) with kernels for sm_{}{}", facts.name, form.0, form.1);
        all.push((name, Cuda::new(Arc::new(card))));
    }
    Ok(all)
}

fn line(outcome: &Outcome) -> String {
    let Outcome { case, what, error, tolerance, seconds, fault } = outcome;
    let verdict = if outcome.passed() { "ok" } else { "FAILED" };
    let fault = fault.as_ref().map_or(String::new(), |fault| format!(": {fault}"));
    format!("{case:<18} {what:<74} {error:>9.1e} {tolerance:>9.1e} {seconds:>8.3} {verdict}{fault}")
}

fn run(options: &Options) -> Result<usize> {
    println!("seed {}; again with --seed {0}", options.seed);
    let (mut failures, mut count, started) = (0, 0, Instant::now());
    let mut failed = Vec::new();
    for (name, ops) in devices(options)? {
        println!(
            "\n{name}\n{:<18} {:<74} {:>9} {:>9} {:>8}",
            "case", "what", "error", "at most", "seconds"
        );
        let wanted = &options.only;
        failures += suite::run(&ops, options.size, options.seed, wanted, &mut |outcome| {
            count += 1;
            let line = line(outcome);
            if !outcome.passed() {
                failed.push(format!("{name}: {line}"));
            }
            if !options.failures || !outcome.passed() {
                println!("{line}");
            }
        })?;
    }
    println!("\n{count} comparisons, {failures} failed, {:.0} s", started.elapsed().as_secs_f64());
    failed.iter().for_each(|line| println!("{line}"));
    Ok(failures)
}

fn main() -> Result<ExitCode> {
    let Some(options) = options()? else { return Ok(ExitCode::SUCCESS) };
    Ok(if run(&options)? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
