//! What the run shows, in plain words: every sentence is made from the estimates, carries its
//! numbers, and says whether the difference in it is clear or within noise.

use std::fmt;

use serde::Serialize;

use crate::analyse::{Analysis, Change, Curve, Language, Measure, Point};
use crate::read::Group;
use crate::words::{self, Unit, list};

/// How sure a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// p < 0.05 after Holm's adjustment over the differences of the same table.
    Clear,
    /// The same over the items of one run; how far another run would differ is not known.
    OneRun,
    /// Not told apart from 0.
    WithinNoise,
    /// Neither items nor seeds to resample.
    NoInterval,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Clear => "clear",
            Verdict::OneRun => "clear in one run",
            Verdict::WithinNoise => "within noise",
            Verdict::NoInterval => "no interval",
        })
    }
}

/// One sentence, or a few that belong together.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Task and series.
    pub about: String,
    /// What it is a finding on: `Seen languages`, `Gap` …
    pub topic: &'static str,
    /// How sure the difference it speaks of is.
    pub verdict: Verdict,
    /// The sentence, with its numbers.
    pub text: String,
}

/// The findings of every task's headline metric, series by series.
pub(crate) fn findings(analysis: &Analysis) -> Vec<Finding> {
    let headlines = analysis.curves.iter().filter(|curve| curve.headline);
    headlines.flat_map(|curve| of_curve(curve, analysis.baseline)).collect()
}

/// The findings of one curve.
pub(crate) fn of_curve(curve: &Curve, baseline: i64) -> Vec<Finding> {
    let about = format!("{}, {}{}", curve.task, curve.metric, words::series_suffix(&curve.series));
    let Some(last) = curve.last(baseline).filter(|_| curve.baseline(baseline).is_some()) else {
        return alone(curve, about);
    };
    let found = [
        ("Seen languages", seen(curve, last)),
        ("Unseen languages", unseen(curve, last)),
        ("Gap", gap(curve, last)),
        ("English", english(curve, last)),
        ("Perf-to-EN", perf_to_english(curve, baseline)),
    ];
    let finding = |(topic, found): (&'static str, Option<(Verdict, String)>)| {
        found.map(|(verdict, text)| Finding { about: about.clone(), topic, verdict, text })
    };
    found.into_iter().filter_map(finding).collect()
}

/// Where there is nothing to compare: what was scored.
fn alone(curve: &Curve, about: String) -> Vec<Finding> {
    let Some(point) = curve.points.last() else { return Vec::new() };
    let named = [
        ("English", point.english()),
        ("the seen languages", point.seen.as_ref()),
        ("the unseen ones", point.unseen.as_ref()),
    ];
    let parts: Vec<String> = named
        .into_iter()
        .filter_map(|(name, one)| Some(format!("{name} {}", value(one?, curve.unit))))
        .collect();
    let text = format!(
        "At n = {}: {}. There is no baseline beside it to compare with.",
        point.n,
        list(&parts)
    );
    vec![Finding { about, topic: "Scores", verdict: Verdict::NoInterval, text }]
}

fn value(measure: &Measure, unit: Unit) -> String {
    let interval =
        measure.estimate.interval.map(|ends| format!(" (95 % interval {})", unit.interval(ends)));
    unit.value(measure.estimate.value) + &interval.unwrap_or_default()
}

/// `from 12.0 % to 45.3 %, +33.3 points (95 % interval 28.0 to 38.1)`.
fn moved(measure: &Measure, change: &Change, unit: Unit) -> String {
    let (from, to) = (unit.value(change.from), unit.value(measure.estimate.value));
    let interval =
        change.estimate.interval.map(|ends| format!(" (95 % interval {})", unit.interval(ends)));
    format!(
        "from {from} to {to}, {}{}",
        unit.points(change.estimate.value),
        interval.unwrap_or_default()
    )
}

fn ending(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clear => "",
        Verdict::OneRun => " over the items of one run",
        Verdict::WithinNoise => ", within noise",
        Verdict::NoInterval => ", with no interval to judge it by",
    }
}

fn seen(curve: &Curve, last: &Point) -> Option<(Verdict, String)> {
    let measure = last.seen.as_ref()?;
    let change = measure.change.as_ref()?;
    let verdict = change.test.verdict();
    let mut text = format!(
        "With {} examples each, their mean goes {}{}.",
        artifact::text::count(last.n.unsigned_abs()),
        moved(measure, change, curve.unit),
        ending(verdict)
    );
    text += &first_clear(curve, last.n, |point| point.seen.as_ref());
    Some((verdict, text + &one_by_one(curve, last, Group::Seen)))
}

/// From which n on the difference is clear, where that is before the last.
fn first_clear(curve: &Curve, last: i64, of: impl Fn(&Point) -> Option<&Measure>) -> String {
    let clear = |point: &&Point| {
        of(point)
            .and_then(|one| one.change.as_ref())
            .is_some_and(|change| change.test.verdict() == Verdict::Clear)
    };
    let Some(first) = curve.points.iter().find(clear).filter(|point| point.n < last) else {
        return String::new();
    };
    let Some(change) = of(first).and_then(|one| one.change.as_ref()) else { return String::new() };
    format!(
        " The smallest n with a clear difference is {} ({}).",
        first.n,
        curve.unit.points(change.estimate.value)
    )
}

fn unseen(curve: &Curve, last: &Point) -> Option<(Verdict, String)> {
    let measure = last.unseen.as_ref()?;
    let change = measure.change.as_ref()?;
    let verdict = change.test.verdict();
    let text = format!(
        "Without examples of their own, their mean goes {}{}.",
        moved(measure, change, curve.unit),
        ending(verdict)
    );
    Some((
        verdict,
        text + &first_clear(curve, last.n, |point| point.unseen.as_ref())
            + &one_by_one(curve, last, Group::Unseen),
    ))
}

/// The group's languages by verdict, each with its difference.
fn one_by_one(curve: &Curve, last: &Point, group: Group) -> String {
    let languages: Vec<(&Language, &Change)> = last
        .languages
        .iter()
        .filter(|one| one.group == group)
        .filter_map(|one| Some((one, one.measure.change.as_ref()?)))
        .collect();
    let named = |wanted: &dyn Fn(&Change) -> bool| {
        let name = |(language, change): &&(&Language, &Change)| {
            format!(
                "{} {}",
                words::language(&language.lang),
                curve.unit.signed(change.estimate.value)
            )
        };
        let kept: Vec<String> =
            languages.iter().filter(|(_, change)| wanted(change)).map(|one| name(&one)).collect();
        list(&kept)
    };
    let is = |verdict: Verdict, up: bool| {
        move |change: &Change| {
            change.test.verdict() == verdict && (change.estimate.value > 0.0) == up
        }
    };
    let parts = [
        ("clear gains", named(&is(Verdict::Clear, true))),
        ("clear losses", named(&is(Verdict::Clear, false))),
        ("within noise", named(&|change: &Change| change.test.verdict() == Verdict::WithinNoise)),
        ("differences", named(&|change: &Change| change.test.verdict() == Verdict::NoInterval)),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {names}"))
        .collect();
    if parts.is_empty() { String::new() } else { format!(" One by one, {}.", parts.join("; ")) }
}

fn gap(curve: &Curve, last: &Point) -> Option<(Verdict, String)> {
    let measure = last.gap.as_ref()?;
    let change = measure.change.as_ref()?;
    let verdict = change.test.verdict();
    let interval = change
        .estimate
        .interval
        .map(|ends| format!(" (95 % interval {})", curve.unit.interval(ends)))
        .unwrap_or_default();
    let (before, after) = (change.from, measure.estimate.value);
    let verb = match verdict {
        Verdict::Clear if before * after < 0.0 => "turns",
        Verdict::Clear if after.abs() > before.abs() => "grows",
        Verdict::Clear => "shrinks",
        _ => "goes",
    };
    let (from, to, by) = (
        curve.unit.signed(before),
        curve.unit.points(after),
        curve.unit.signed(change.estimate.value),
    );
    let text = format!(
        "Seen less unseen mean {verb} from {from} to {to}, by {by}{interval}{}.",
        ending(verdict)
    );
    Some((verdict, text))
}

fn english(curve: &Curve, last: &Point) -> Option<(Verdict, String)> {
    let measure = last.english()?;
    let change = measure.change.as_ref()?;
    let verdict = change.test.verdict();
    Some((verdict, format!("It goes {}{}.", moved(measure, change, curve.unit), ending(verdict))))
}

/// The best n by Perf-to-EN and by the mean over the other languages.
fn perf_to_english(curve: &Curve, baseline: i64) -> Option<(Verdict, String)> {
    let best = |of: &dyn Fn(&Point) -> Option<&Measure>| {
        let points = curve.points.iter().filter_map(|point| Some((point.n, of(point)?)));
        points
            .reduce(|a, b| if b.1.estimate.value > a.1.estimate.value { b } else { a })
            .map(|(n, measure)| (n, measure.estimate.value))
    };
    let (n, ratio) = best(&|point| point.perf_to_english.as_ref())?;
    let point = curve.points.iter().find(|point| point.n == n)?;
    let change = point.perf_to_english.as_ref()?.change.as_ref();
    let percent = Unit::Percent;
    let mut text = format!("Highest at n = {n}: {}", percent.value(ratio));
    let verdict = match change {
        Some(change) => {
            let interval = change
                .estimate
                .interval
                .map(|ends| format!(" (95 % interval {})", percent.interval(ends)))
                .unwrap_or_default();
            let by = percent.points(change.estimate.value);
            text += &format!(
                ", {by} against n = {baseline}{interval}{}.",
                ending(change.test.verdict())
            );
            change.test.verdict()
        }
        None if n == baseline => {
            text += ", so no added examples raised it.";
            verdict_of_last(curve, baseline)
        }
        None => {
            text += ".";
            Verdict::NoInterval
        }
    };
    if let Some((n, mean)) = best(&|point| point.non_english.as_ref()) {
        text += &format!(
            " The highest mean over the non-English languages is {}, at n = {n}.",
            curve.unit.value(mean)
        );
    }
    Some((verdict, text))
}

fn verdict_of_last(curve: &Curve, baseline: i64) -> Verdict {
    let change =
        curve.last(baseline).and_then(|point| point.perf_to_english.as_ref()?.change.as_ref());
    change.map_or(Verdict::NoInterval, |change| change.test.verdict())
}
