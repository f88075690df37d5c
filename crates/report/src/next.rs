//! What to run next to settle what is open: seeds and items by the power that they bring, cells that
//! are missing, larger n where the curve still rises, runs to repeat where a score stands out.

use std::collections::BTreeSet;

use crate::analyse::{Analysis, Curve};
use crate::answers::{NAMED, about};
use crate::findings::{Finding, Verdict};
use crate::further::{Detectable, Shape};
use crate::words::list;

/// More seeds than this are no advice.
const MANY: usize = 50;

/// Advice, the most telling first.
pub(crate) fn next(analysis: &Analysis) -> Vec<Finding> {
    let found =
        [missing(analysis), seeds(analysis), power(analysis), larger(analysis), repeat(analysis)];
    found.into_iter().flatten().collect()
}

fn advice(about: String, topic: &'static str, text: String) -> Finding {
    Finding { about, topic, verdict: Verdict::NoInterval, text }
}

/// Languages that some points of a curve have and others lack.
fn missing(analysis: &Analysis) -> Vec<Finding> {
    let lacking = |curve: &Curve| {
        let all: BTreeSet<&str> = curve
            .points
            .iter()
            .flat_map(|point| &point.languages)
            .map(|one| one.lang.as_str())
            .collect();
        let gaps: Vec<String> = curve
            .points
            .iter()
            .filter_map(|point| {
                let has: BTreeSet<&str> =
                    point.languages.iter().map(|one| one.lang.as_str()).collect();
                let lacks: Vec<&str> = all.difference(&has).copied().collect();
                (!lacks.is_empty()).then(|| format!("n = {} lacks {}", point.n, lacks.join(", ")))
            })
            .collect();
        (!gaps.is_empty()).then(|| {
            let text = format!(
                "Score what is missing: {}. Means and gaps there are over other languages than elsewhere.",
                gaps.join("; ")
            );
            advice(about(curve), "Missing cells", text)
        })
    };
    analysis.curves.iter().filter(|curve| curve.headline).filter_map(lacking).take(NAMED).collect()
}

/// A second seed, where there is none.
fn seeds(analysis: &Analysis) -> Vec<Finding> {
    let headlines = || analysis.curves.iter().filter(|curve| curve.headline);
    let points = || headlines().flat_map(|curve| &curve.points);
    let single = points().filter(|point| point.seeds_and_items().0 < 2).count();
    if single == 0 {
        return Vec::new();
    }
    let text = format!(
        "{single} of {} points have one run. Until some are repeated with other seeds, no interval can hold what training itself varies; two seeds at the baseline and at the largest n tell most.",
        points().count()
    );
    vec![advice("All headline scores".into(), "Seeds", text)]
}

/// What it takes to tell the open differences of means from noise.
fn power(analysis: &Analysis) -> Vec<Finding> {
    let open = |at: usize| -> Vec<&Detectable> {
        let of = ["seen", "unseen", "non-English"];
        let own = analysis.further.detectable.iter().filter(|one| one.curve == at);
        own.filter(|one| of.contains(&one.of.as_str()))
            .filter(|one| one.observed.is_some_and(|seen| seen.abs() < one.smallest))
            .collect()
    };
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for (at, curve) in analysis.curves.iter().enumerate() {
        let sentences: Vec<String> =
            open(at).into_iter().filter_map(|one| needed(curve, one)).collect();
        let least = open(at).iter().filter_map(|one| one.seeds_needed).min();
        if !sentences.is_empty() {
            let rank = least.map_or(f64::INFINITY, |least| least as f64);
            found.push((rank, advice(about(curve), "Power", sentences.join(" "))));
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.into_iter().map(|one| one.1).take(NAMED).collect()
}

fn needed(curve: &Curve, one: &Detectable) -> Option<String> {
    let unit = curve.unit;
    let observed = unit.points(one.observed?);
    let smallest = unit.number(one.smallest);
    let now = match (one.seeds, one.items) {
        (0 | 1, 0) => "one run each".to_string(),
        (seeds, 0) => format!("{seeds} seeds"),
        (0 | 1, items) => format!("one seed and {items} items"),
        (seeds, items) => format!("{seeds} seeds and {items} items"),
    };
    let seeds = one
        .seeds_needed
        .filter(|&count| count <= MANY)
        .map(|count| format!("{count} seeds a point (α = 0.05, power 80 %)"));
    let items = one
        .items_needed
        .filter(|_| one.items > 0)
        .map(|count| format!("{} items", artifact::text::count(count as u64)));
    let ways =
        list(&[seeds, items].into_iter().flatten().collect::<Vec<_>>()).replace(" and ", " or ");
    let way = if ways.is_empty() {
        "and neither more seeds nor more items within reason would find it".to_string()
    } else {
        format!("which {ways} would find")
    };
    Some(format!(
        "The {} mean's {observed} at n = {} lies below the {smallest} that {now} can find, {way}.",
        one.of, one.n
    ))
}

/// A larger n where the mean still rises.
fn larger(analysis: &Analysis) -> Vec<Finding> {
    let rising = analysis
        .further
        .plateaus
        .iter()
        .filter(|one| one.of == "non-English" && one.shape == Shape::StillRising)
        .filter(|one| analysis.curves[one.curve].headline);
    rising
        .filter_map(|one| {
            let curve = &analysis.curves[one.curve];
            let last = curve.points.last()?.n;
            let rise = curve.unit.points(one.rise?);
            let text = format!(
                "The non-English mean still rises at n = {last} ({rise} so far): n = {} would show whether it levels off.",
                2 * last
            );
            Some(advice(about(curve), "Larger n", text))
        })
        .take(NAMED)
        .collect()
}

/// Cells that stand out, which a repetition would settle.
fn repeat(analysis: &Analysis) -> Vec<Finding> {
    let headline: Vec<_> = analysis
        .further
        .outliers
        .iter()
        .filter(|one| analysis.curves[one.curve].headline)
        .collect();
    let cells: Vec<String> = headline
        .iter()
        .take(NAMED)
        .map(|one| {
            let curve = &analysis.curves[one.curve];
            let name = crate::words::series_suffix(&curve.series);
            format!("{}{name} n = {} ({})", curve.task, one.n, one.lang)
        })
        .collect();
    if cells.is_empty() {
        return Vec::new();
    }
    let text = format!(
        "Repeat with another seed the runs whose scores do not fit their neighbours: {}.",
        list(&cells)
    );
    vec![advice("Outliers".into(), "Repeat", text)]
}
