//! In which language the answers are, beside how good they are: LPR (answers whose every line is in
//! the language asked for), WPR (of those, the ones without a stray English word) and LCPR, their
//! harmonic mean (Marchisio et al. 2024); and the shares of answers in the language asked for, in
//! English, and in any other.

use ::statistics::quantile;

use crate::bootstrap::Estimate;
use crate::further::Fidelity;
use crate::ground::{Ground, Over, Place};
use crate::read::ANSWERS_IN_ENGLISH;

const LINES: &str = "line_pass";
const WORDS: &str = "word_pass";
const ASKED: &str = "language_fidelity";

/// For every curve of a fidelity metric, n and language, and for all languages but English together.
pub(crate) fn fidelity(ground: &Ground) -> Vec<Fidelity> {
    let groups = ground.grouped(|curve| (curve.task.clone(), curve.series.clone()));
    groups.iter().flat_map(|group| of_series(ground, group)).collect()
}

/// The curves of one task and series, by metric.
fn of_series(ground: &Ground, group: &[usize]) -> Vec<Fidelity> {
    let curve = |metric: &str| group.iter().copied().find(|&at| ground.curve(at).metric == metric);
    let [lines, words, asked, english] = [LINES, WORDS, ASKED, ANSWERS_IN_ENGLISH].map(curve);
    let Some(leading) = lines.or(asked).or(words) else { return Vec::new() };
    let mut rows = Vec::new();
    for point in &ground.curve(leading).points {
        let others: Vec<String> = point.others().map(|one| one.lang.clone()).collect();
        let each = point.languages.iter().map(|one| (one.lang.clone(), Over::language(&one.lang)));
        let all = (others.len() > 1).then(|| ("all".to_string(), Over::Mean(others)));
        for (lang, over) in each.chain(all) {
            let of =
                |curve: Option<usize>| ground.estimate(Place { curve: curve?, n: point.n }, &over);
            let other = asked.zip(english).and_then(|(asked, english)| {
                rest(ground, Place { curve: asked, n: point.n }, english, &over)
            });
            rows.push(Fidelity {
                curve: leading,
                n: point.n,
                line_pass: of(lines),
                word_pass: of(words),
                combined: lines
                    .zip(words)
                    .and_then(|(lines, words)| combined(ground, lines, words, point.n, &over)),
                asked: of(asked),
                english: of(english),
                other,
                lang,
            });
        }
    }
    rows
}

/// What is neither in the language asked for nor in English: 1 − asked − English.
fn rest(ground: &Ground, asked: Place, english: usize, over: &Over) -> Option<Estimate> {
    let english = Place { curve: english, ..asked };
    // Two metrics of the same runs, which their own spread tells best.
    let statistic = ground.statistic(&[(1.0, asked), (1.0, english)], over)?;
    let sum = ground.draws_of(asked.curve).estimate(&statistic, None)?;
    Some(Estimate {
        value: 1.0 - sum.value,
        interval: sum.interval.map(|(low, high)| (1.0 - high, 1.0 - low)),
        p: None,
        by_seed: sum.by_seed.iter().map(|value| 1.0 - value).collect(),
        ..sum
    })
}

/// The harmonic mean of LPR and WPR, draw by draw.
fn combined(ground: &Ground, lines: usize, words: usize, n: i64, over: &Over) -> Option<Estimate> {
    let harmonic = |a: f64, b: f64| if a + b > 0.0 { 2.0 * a * b / (a + b) } else { 0.0 };
    let estimate = |curve: usize| ground.estimate(Place { curve, n }, over);
    let (a, b) = (estimate(lines)?, estimate(words)?);
    let statistic = |curve: usize| over.statistic(ground.point(Place { curve, n })?);
    let draws = ground.draws_of(lines).values(&[statistic(lines)?, statistic(words)?], None);
    let interval = draws.and_then(|draws| {
        let pairs = draws[0].iter().zip(&draws[1]);
        let mut both: Vec<f64> = pairs.map(|(a, b)| harmonic(*a, *b)).collect();
        both.retain(|value| value.is_finite());
        both.sort_unstable_by(f64::total_cmp);
        (!both.is_empty()).then(|| (quantile(&both, 0.025), quantile(&both, 0.975)))
    });
    Some(Estimate {
        value: harmonic(a.value, b.value),
        interval: interval.filter(|_| a.interval.is_some()),
        by_seed: a.by_seed.iter().zip(&b.by_seed).map(|(a, b)| harmonic(*a, *b)).collect(),
        seeds: a.seeds.min(b.seeds),
        items: a.items.min(b.items),
        ..Estimate::plain(0.0)
    })
}
