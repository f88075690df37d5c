//! Times one metric over pairs of texts, for `benches/eval.py` and `benches/parity.py`.
//!
//!     metric_speed rouge_l_ascii pairs.jsonl [scores.jsonl [mecab-dictionary]]
//!
//! In: a line `{"hypothesis": …, "reference": …}` a pair, and its `"lang"` where that is not English. Out: seconds of each of five runs
//! over all pairs, with as many threads as rayon is given (RAYON_NUM_THREADS), reading and parsing not counted; and the scores, one a
//! line, where a file is named.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use eval::Metric;
use eval::metric::exact_match::Marks;
use eval::metric::mecab::Dictionary;
use eval::metric::{Item, Tools};
use language::Detector;
use rayon::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Pair {
    hypothesis: String,
    reference: String,
    #[serde(default = "english")]
    lang: String,
}

fn english() -> String {
    "en".to_owned()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (metric, pairs, scores, mecab) = match &arguments[..] {
        [metric, pairs] => (metric, pairs, None, None),
        [metric, pairs, scores] => (metric, pairs, Some(scores), None),
        [metric, pairs, scores, mecab] => (metric, pairs, Some(scores), Some(Path::new(mecab))),
        _ => bail!("usage: metric_speed METRIC PAIRS.jsonl [SCORES.jsonl [MECAB]]"),
    };
    let metric = Metric::named(metric).context("unknown metric")?;
    let pairs: Vec<Pair> =
        BufReader::new(std::fs::File::open(pairs).with_context(|| pairs.clone())?)
            .lines()
            .map(|line| Ok(serde_json::from_str(&line?)?))
            .collect::<Result<_>>()?;
    let languages: BTreeSet<String> = pairs.iter().map(|pair| pair.lang.clone()).collect();
    let dictionary = mecab.map(Dictionary::read).transpose()?;
    let tools = Tools { detector: Detector::new(&Vec::from_iter(languages))?, dictionary };
    let marks = Marks::default();
    let score = |pair: &Pair| {
        let item = Item {
            lang: &pair.lang,
            generation: &pair.hypothesis,
            reference: Some(&pair.reference),
            marks: &marks,
        };
        metric.score(&item, &tools).value.unwrap_or(f64::NAN)
    };
    let mut values = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        values = pairs.par_iter().map(score).collect();
        println!("{}", start.elapsed().as_secs_f64());
    }
    if let Some(path) = scores {
        let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
        for value in values {
            writeln!(out, "{value}")?;
        }
        out.flush()?;
    }
    Ok(())
}
