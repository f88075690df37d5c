//! Compiles every kernel for every architecture that it is for and holds the result to its budget: no
//! spills, no stack, no serialised warpgroup products (C7510 to C7520), registers within the bound in
//! `train::cuda::kernels`. Needs libnvrtc and no card: `make kernels-check`.

use anyhow::{Result, ensure};
use train::cuda::kernels::{FILES, KernelFile};
use train::cuda::nvrtc::Nvrtc;

/// What the assembler said of one kernel.
#[derive(Debug, Default)]
struct Report {
    kernel: String,
    registers: u32,
    stack: u32,
    spills: u32,
}

fn main() -> Result<()> {
    let nvrtc = Nvrtc::get()?;
    println!("NVRTC {}.{} ({})", nvrtc.version.0, nvrtc.version.1, nvrtc.path.display());
    println!("{:<32} {:<8} {:>9} {:>6}", "kernel", "for", "registers", "budget");
    let mut faults = Vec::new();
    for file in FILES {
        let architectures: &[&str] =
            if file.hopper { &["sm_90a"] } else { &["sm_80", "sm_89", "sm_90a"] };
        for architecture in architectures {
            check(nvrtc, file, architecture, &mut faults)?;
        }
    }
    ensure!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

fn check(
    nvrtc: &Nvrtc,
    file: &KernelFile,
    architecture: &str,
    faults: &mut Vec<String>,
) -> Result<()> {
    let log = nvrtc.compile(file, architecture)?.log;
    for line in log.lines().filter(|line| line.contains("(C75")) {
        faults.push(format!("{} for {architecture}: {line}", file.name));
    }
    let reports = reports(&log);
    for (kernel, budget) in file.kernels {
        let Some(report) = reports.iter().find(|report| report.kernel == *kernel) else {
            faults.push(format!("{} for {architecture}: there is no {kernel}", file.name));
            continue;
        };
        println!("{kernel:<32} {architecture:<8} {:>9} {budget:>6}", report.registers);
        if let Err(fault) = file.check_registers(kernel, report.registers as i32) {
            faults.push(fault.to_string());
        }
        if report.registers > *budget || report.stack + report.spills > 0 {
            faults.push(format!(
                "{kernel} for {architecture}: {} registers (budget {budget}), {} bytes of stack, {} bytes spilled",
                report.registers, report.stack, report.spills
            ));
        }
    }
    for report in reports {
        if file.kernels.iter().all(|(kernel, _)| *kernel != report.kernel) {
            faults.push(format!("{}: {} has no budget", file.name, report.kernel));
        }
    }
    Ok(())
}

/// The assembler's lines, kernel by kernel.
fn reports(log: &str) -> Vec<Report> {
    let mut all: Vec<Report> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            all.push(Report { kernel, ..Report::default() });
        } else if let Some(report) = all.last_mut() {
            if line.contains("bytes stack frame") {
                report.stack = before(line, " bytes stack frame");
                report.spills =
                    before(line, " bytes spill stores") + before(line, " bytes spill loads");
            } else if line.contains(" registers") {
                report.registers = before(line, " registers");
            }
        }
    }
    all
}

/// The number that stands right before `what`.
fn before(line: &str, what: &str) -> u32 {
    let head = line.split(what).next().unwrap_or_default();
    head.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}
