//! Identifies each line of a file, for benches/language.py: `identify whatlang|fast|accurate CANDIDATES FILE`, candidates
//! separated by commas (`all` for every language); `whatlang` is whatlang as it is. Prints a line each: tag, confidence and
//! whether it is reliable.

use std::io::{BufWriter, Write, stdout};

use anyhow::{Context, Result, bail};
use language::{Accuracy, Detector};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [accuracy, candidates, file] = &arguments[..] else {
        bail!("usage: identify whatlang|fast|accurate CANDIDATES FILE");
    };
    let text = std::fs::read_to_string(file).with_context(|| file.clone())?;
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    let candidates: Vec<String> = match candidates.as_str() {
        "all" => Vec::new(),
        some => some.split(',').map(str::to_owned).collect(),
    };
    if accuracy == "whatlang" {
        return whatlang(&candidates, &lines);
    }
    let accuracy = match accuracy.as_str() {
        "fast" => Accuracy::Fast,
        "accurate" => Accuracy::Accurate,
        other => bail!("{other} is none of whatlang, fast and accurate"),
    };
    let detector = Detector::with(&candidates, accuracy)?;
    let mut out = BufWriter::new(stdout().lock());
    for line in lines {
        let found = detector.detect(line);
        let lang = found.lang.unwrap_or_default();
        writeln!(out, "{lang}\t{}\t{}", found.confidence, found.reliable)?;
    }
    Ok(())
}

fn whatlang(candidates: &[String], lines: &[&str]) -> Result<()> {
    let tag = |lang: &whatlang::Lang| language::normalise(lang.code()).map(|tag| tag.lang);
    let wanted: Vec<String> =
        candidates.iter().map(|tag| language::canonical(tag)).collect::<Result<_>>()?;
    let allowed = whatlang::Lang::all().iter().copied();
    let allowed = allowed.filter(|lang| tag(lang).is_some_and(|tag| wanted.contains(&tag)));
    let detector = match &wanted[..] {
        [] => whatlang::Detector::new(),
        _ => whatlang::Detector::with_allowlist(allowed.collect()),
    };
    let mut out = BufWriter::new(stdout().lock());
    for line in lines {
        let found = detector.detect(line);
        let lang = found.as_ref().and_then(|found| tag(&found.lang())).unwrap_or_default();
        let confidence = found.as_ref().map_or(0.0, |found| found.confidence());
        writeln!(out, "{lang}\t{confidence}\t{}", found.is_some_and(|found| found.is_reliable()))?;
    }
    Ok(())
}
