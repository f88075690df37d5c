//! The first page: the questions that a study is run for, answered in sentences that are made from
//! the results. Every sentence carries its number, its interval where there is one, and a verdict.

use std::collections::BTreeSet;

use crate::analyse::{Analysis, Curve};
use crate::findings::{self, Finding, Verdict};
use crate::further::{
    Answers, GapShape, Inclusion, NoiseOf, NoiseSource, PanelKind, Plateau, Question, Shape,
    VariancePart,
};
use crate::next;
use crate::quantity::Contrast;
use crate::suggest;
use crate::variance::ALL_TASKS;
use crate::words::{self, Unit, list};

/// Series told one by one in an answer; of more, those with the largest differences.
const SERIES: usize = 6;
/// Languages or cells named in a sentence.
pub(crate) const NAMED: usize = 5;

/// All questions that the results answer.
pub(crate) fn answers(analysis: &Analysis) -> Vec<Question> {
    let questions = [
        ("bought", "What did each language buy?", bought(analysis)),
        ("unseen", "What reached the languages that were not trained on?", unseen(analysis)),
        ("plateau", "Where did more data stop helping?", plateau(analysis)),
        ("variance", "What do the scores vary with?", variance(analysis)),
        ("noise", "What is within noise?", noise(analysis)),
        ("next", "What to run next to settle it?", next::next(analysis)),
        ("mixture", "Which mixture for a budget?", mixture(&analysis.answers)),
    ];
    questions
        .into_iter()
        .filter(|(.., answers)| !answers.is_empty())
        .map(|(id, question, answers)| Question { id, question: question.into(), answers })
        .collect()
}

/// A curve's name in front of its sentences.
pub(crate) fn about(curve: &Curve) -> String {
    format!("{}, {}{}", curve.task, curve.metric, words::series_suffix(&curve.series))
}

/// The headline curves to tell of, some of each task, and how many are left to the tables.
fn told(analysis: &Analysis) -> (Vec<usize>, usize) {
    let curves: Vec<usize> = (0..analysis.curves.len())
        .filter(|&at| analysis.curves[at].headline)
        .filter(|&at| analysis.curves[at].points.len() > 1)
        .collect();
    let moved = |at: &usize| {
        let curve = &analysis.curves[*at];
        let last = curve.last(analysis.baseline).and_then(|last| last.non_english.as_ref());
        let change = last.and_then(|measure| measure.change.as_ref());
        change.map_or(0.0, |change| change.estimate.value.abs())
    };
    let task = |at: &usize| analysis.curves[*at].task.as_str();
    let tasks: BTreeSet<&str> = curves.iter().map(task).collect();
    let each = (SERIES / tasks.len().max(1)).max(1);
    let mut kept: Vec<usize> = Vec::new();
    for name in tasks {
        let mut of_task: Vec<usize> =
            curves.iter().copied().filter(|at| task(at) == name).collect();
        of_task.sort_by(|a, b| moved(b).total_cmp(&moved(a)));
        kept.extend(of_task.into_iter().take(each));
    }
    kept.sort_unstable();
    let left = curves.len() - kept.len();
    (kept, left)
}

/// The findings of some topics, curve by curve.
fn topics(analysis: &Analysis, wanted: &[&str]) -> Vec<Finding> {
    let (curves, left) = told(analysis);
    let mut found: Vec<Finding> = curves
        .iter()
        .flat_map(|&at| findings::of_curve(&analysis.curves[at], analysis.baseline))
        .filter(|finding| wanted.contains(&finding.topic))
        .collect();
    found.extend(more(left));
    found
}

fn more(left: usize) -> Option<Finding> {
    (left > 0).then(|| Finding {
        about: "Others".into(),
        topic: "Tables",
        verdict: Verdict::NoInterval,
        text: format!("{left} more series, which moved less, stand in the tables."),
    })
}

fn bought(analysis: &Analysis) -> Vec<Finding> {
    let mut found = topics(analysis, &["Seen languages", "English", "Scores"]);
    let mut rest: Vec<&Inclusion> =
        analysis.further.inclusions.iter().filter(|one| one.about.headline).collect();
    while let Some(first) = rest.first() {
        let about = first.about.clone();
        let (of_family, others): (Vec<&Inclusion>, Vec<&Inclusion>) =
            rest.into_iter().partition(|one| one.about == about);
        rest = others;
        found.extend(inclusion(&of_family));
    }
    found
}

/// What examples of its own are worth to each language, at the largest n.
fn inclusion(family: &[&Inclusion]) -> Option<Finding> {
    let largest = family.iter().map(|one| one.n).max()?;
    let last: Vec<&&Inclusion> = family.iter().filter(|one| one.n == largest).collect();
    let unit = last.first()?.unit;
    let told = |one: &&Inclusion| {
        let interval = interval(one.effect.estimate.interval, unit);
        let by = unit.signed(one.effect.estimate.value);
        format!("{} {by}{interval}", words::language(&one.lang))
    };
    let of = |wanted: &dyn Fn(Verdict) -> bool| {
        let kept = last.iter().copied().filter(|one| wanted(one.effect.test.verdict()));
        list(&kept.map(told).collect::<Vec<_>>())
    };
    let clear = of(&|verdict| matches!(verdict, Verdict::Clear | Verdict::OneRun));
    let noise = of(&|verdict| verdict == Verdict::WithinNoise);
    let mut text = format!(
        "At n = {largest}, direct less zero-shot (examples of its own against those of other languages)"
    );
    text += &match (clear.is_empty(), noise.is_empty()) {
        (false, false) => format!(" is clear for {clear}; within noise for {noise}."),
        (false, true) => format!(" is clear for {clear}."),
        (true, false) => format!(" is within noise for {noise}."),
        (true, true) => return None,
    };
    let verdict = if clear.is_empty() { Verdict::WithinNoise } else { Verdict::Clear };
    let about = last.first()?.about.name();
    Some(Finding { about, topic: "Own examples", verdict, text })
}

pub(crate) fn interval(ends: Option<(f64, f64)>, unit: Unit) -> String {
    ends.map(|ends| format!(" (95 % interval {})", unit.interval(ends))).unwrap_or_default()
}

fn unseen(analysis: &Analysis) -> Vec<Finding> {
    let mut found = topics(analysis, &["Unseen languages", "Gap"]);
    let (curves, _) = told(analysis);
    for at in curves {
        found.extend(following(analysis, at));
    }
    found.extend(analysis.further.matrices.iter().filter_map(donors));
    found
}

fn following(analysis: &Analysis, at: usize) -> Vec<Finding> {
    let curve = &analysis.curves[at];
    let correlation = analysis.further.following.iter().find(|one| one.curve == at).map(|one| {
        let p = one.test.p.map_or(String::new(), |p| format!(", p = {}", words::probability(p)));
        let text = format!(
            "Along n, the seen and unseen means have a rank correlation of {:.2} over {} points{p}.",
            one.correlation, one.points
        );
        Finding {
            about: about(curve),
            topic: "Following",
            verdict: one.test.verdict(),
            text: text.replace('-', "−"),
        }
    });
    let constancy = analysis.further.gaps.iter().find(|one| one.curve == at).map(|one| {
        let change = one.unit.points(one.change.estimate.value);
        let interval = interval(one.change.estimate.interval, one.unit);
        let tail = match one.shape {
            GapShape::Constant => {
                format!("which is constant to within {}", one.unit.number(one.margin))
            }
            GapShape::Grows => "so the gap grows".into(),
            GapShape::Shrinks => "so the gap shrinks".into(),
            GapShape::Undecided => "so neither a constant nor a changing gap is shown".to_string(),
        };
        let verdict = match one.shape {
            GapShape::Undecided => Verdict::WithinNoise,
            _ => Verdict::Clear,
        };
        let text = format!("The gap's trend changes by {change}{interval} over the grid, {tail}.");
        Finding { about: about(curve), topic: "Gap along n", verdict, text }
    });
    correlation.into_iter().chain(constancy).collect()
}

/// Which mixtures gave most to languages that they do not hold.
fn donors(matrix: &crate::further::Matrix) -> Option<Finding> {
    if !matrix.about.headline {
        return None;
    }
    let mut given: Vec<(&String, &Contrast)> = matrix
        .sources
        .iter()
        .zip(&matrix.donors)
        .filter_map(|((_, name), contrast)| Some((name, contrast.as_ref()?)))
        .collect();
    given.sort_by(|a, b| b.1.estimate.value.total_cmp(&a.1.estimate.value));
    let told = |(name, one): &(&String, &Contrast)| {
        let interval = interval(one.estimate.interval, matrix.unit);
        format!("{name} {}{interval}", matrix.unit.signed(one.estimate.value))
    };
    let clear: Vec<&(&String, &Contrast)> =
        given.iter().filter(|(_, one)| one.test.verdict() == Verdict::Clear).collect();
    let verdict = if clear.is_empty() { Verdict::WithinNoise } else { Verdict::Clear };
    let shown: Vec<String> = if clear.is_empty() {
        given.iter().take(1).map(told).collect()
    } else {
        clear.iter().take(NAMED).map(|one| told(one)).collect()
    };
    if shown.is_empty() {
        return None;
    }
    let text = format!(
        "Mean gain of the languages that a mixture does not hold, at n = {}: {}{}; {} of {} mixtures are clear.",
        matrix.n,
        list(&shown),
        if clear.is_empty() { " is the largest, within noise" } else { "" },
        clear.len(),
        given.len()
    );
    Some(Finding { about: matrix.about.name(), topic: "Donors", verdict, text })
}

fn plateau(analysis: &Analysis) -> Vec<Finding> {
    let (curves, left) = told(analysis);
    let mut found: Vec<Finding> = curves
        .into_iter()
        .filter_map(|at| {
            let of = ["seen", "unseen", "non-English"];
            let own: Vec<&Plateau> = analysis
                .further
                .plateaus
                .iter()
                .filter(|one| one.curve == at && of.contains(&one.of.as_str()))
                .collect();
            plateau_of(&analysis.curves[at], &own)
        })
        .collect();
    found.extend(more(left));
    found
}

fn plateau_of(curve: &Curve, plateaus: &[&Plateau]) -> Option<Finding> {
    let whole = |n: f64| artifact::text::count(n.round().max(0.0) as u64);
    let last = curve.points.last()?.n;
    let told = |one: &&&Plateau| {
        let rise = one.rise.map_or(String::new(), |rise| curve.unit.points(rise));
        let of = &one.of;
        match one.shape {
            Shape::LevelsOff => {
                let low = one.low.map_or("0".into(), whole);
                let interval = match one.high {
                    Some(high) => format!("95 % interval {low} to {}", whole(high)),
                    None => format!("95 % interval from {low} on, with no upper end in the grid"),
                };
                let at = one.at.map_or(String::new(), whole);
                Some(format!("the {of} mean levels off at n = {at} ({interval}), after {rise}"))
            }
            Shape::StillRising => {
                Some(format!("the {of} mean still rises at n = {last}, by {rise} over the grid"))
            }
            Shape::Flat => Some(format!("the {of} mean does not change with n")),
            Shape::Falls => Some(format!("the {of} mean falls, by {rise} over the grid")),
            Shape::Undetermined => None,
        }
    };
    let sentences: Vec<String> = plateaus.iter().filter_map(|one| told(&one)).collect();
    if sentences.is_empty() {
        return None;
    }
    let settled = |one: &&Plateau| match one.shape {
        Shape::LevelsOff => one.high.is_some(),
        Shape::StillRising | Shape::Falls => true,
        Shape::Flat | Shape::Undetermined => false,
    };
    let sure = plateaus.iter().any(settled);
    let verdict = if sure { Verdict::Clear } else { Verdict::WithinNoise };
    let text = capital(&sentences.join("; ")) + ".";
    Some(Finding { about: about(curve), topic: "Levelling off", verdict, text })
}

pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

/// The largest shares of variance, and what interactions have together; of the widest blocks of runs.
fn variance(analysis: &Analysis) -> Vec<Finding> {
    let all = &analysis.further.variance;
    let together: Vec<_> = all.iter().filter(|one| one.about == ALL_TASKS).collect();
    let told = if together.is_empty() { all.iter().collect() } else { together };
    let share = |part: &VariancePart| {
        let interval = interval(part.interval, Unit::Percent);
        format!("{} {}{interval}", part.factors, Unit::Percent.value(part.share))
    };
    told.into_iter()
        .take(NAMED)
        .map(|one| {
            let mut parts: Vec<&VariancePart> = one.parts.iter().collect();
            parts.sort_by(|a, b| b.share.total_cmp(&a.share));
            let largest: Vec<String> = parts.iter().take(3).map(|part| share(part)).collect();
            let interactions: f64 = one
                .parts
                .iter()
                .filter(|part| part.factors.contains('×'))
                .map(|part| part.share)
                .sum();
            let text = format!(
                "Of the variance of {}, most lies with {}; interactions of two factors hold {} together ({}).",
                one.response,
                list(&largest),
                Unit::Percent.value(interactions),
                one.note
            );
            let about = one.about.clone();
            Finding { about, topic: "Variance", verdict: Verdict::NoInterval, text }
        })
        .collect()
}

fn noise(analysis: &Analysis) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(counted(analysis));
    found.extend(runs(analysis));
    found.extend(panels(analysis));
    found.extend(outliers(analysis));
    found
}

/// How many of the differences stand out.
fn counted(analysis: &Analysis) -> Option<Finding> {
    let headlines = analysis.curves.iter().filter(|curve| curve.headline);
    let verdicts: Vec<Verdict> = headlines
        .flat_map(|curve| &curve.points)
        .flat_map(|point| &point.languages)
        .filter_map(|one| one.measure.change.as_ref())
        .map(|change| change.test.verdict())
        .collect();
    let count = |wanted: Verdict| verdicts.iter().filter(|one| **one == wanted).count();
    let (clear, one_run, noise) =
        (count(Verdict::Clear), count(Verdict::OneRun), count(Verdict::WithinNoise));
    let judged = clear + one_run + noise;
    if judged == 0 {
        return None;
    }
    let mut text = format!(
        "Of {judged} differences of a language's score from the baseline n = {}, {noise} are within noise (p ≥ 0.05 after Holm over the differences of their series)",
        analysis.baseline
    );
    if one_run > 0 {
        text += &format!(
            "; {one_run} are clear over the items of one run, which does not say how another run would differ"
        );
    }
    let unjudged = verdicts.len() - judged;
    if unjudged > 0 {
        text += &format!("; {unjudged} more have nothing to be judged by");
    }
    let verdict = if noise > 0 { Verdict::WithinNoise } else { Verdict::Clear };
    Some(Finding {
        about: "All headline scores".into(),
        topic: "Differences",
        verdict,
        text: text + ".",
    })
}

/// How far runs of one experiment differ.
fn runs(analysis: &Analysis) -> Vec<Finding> {
    let told = |source: NoiseSource| {
        analysis.further.noise.iter().filter(move |one| {
            one.about.headline && one.of == NoiseOf::NonEnglishMean && one.source == source
        })
    };
    let line = |one: &crate::further::RunNoise| {
        let (sd, least) = (one.unit.number(one.sd), one.unit.number(one.threshold));
        let whence = match one.source {
            NoiseSource::Seeds => "Runs that differ in their seeds alone".to_string(),
            NoiseSource::SameData => {
                let values: Vec<String> =
                    one.runs.iter().map(|(_, value)| one.unit.number(*value)).collect();
                format!("{} runs of the same data ({})", one.runs.len(), list(&values))
            }
            NoiseSource::AlongN => "Neighbours along n".to_string(),
        };
        Finding {
            about: one.about.name(),
            topic: "Run to run",
            verdict: Verdict::WithinNoise,
            text: format!(
                "{whence} differ by a standard deviation of {sd} in the mean over the non-English languages, so two single runs must lie {least} apart to tell more than noise."
            ),
        }
    };
    let seeds: Vec<Finding> = told(NoiseSource::Seeds).map(line).collect();
    if seeds.is_empty() { told(NoiseSource::SameData).map(line).collect() } else { seeds }
}

fn panels(analysis: &Analysis) -> Vec<Finding> {
    let panels = analysis.further.panels.iter().filter(|panel| panel.about.headline);
    panels
        .filter_map(|panel| {
            let best = panel.best.as_ref()?;
            let (unit, verdict) = (panel.unit, best.difference.test.verdict());
            let estimate = &best.difference.estimate;
            let ending = match verdict {
                Verdict::Clear => "",
                Verdict::OneRun => ", over the items of one run",
                Verdict::WithinNoise => ", which is within noise",
                Verdict::NoInterval => ", with nothing to judge it by",
            };
            let text = format!(
                "The best mean over the non-English languages is {} ({}, n = {}) against {} ({}, n = {}): {}{}{ending}.",
                unit.value(best.values[0]),
                panel.names[0],
                best.n[0],
                unit.value(best.values[1]),
                panel.names[1],
                best.n[1],
                unit.points(estimate.value),
                interval(estimate.interval, unit),
            );
            let topic = match panel.kind {
                PanelKind::Scripts => "Scripts",
                PanelKind::Settings => "Settings",
            };
            Some(Finding { about: panel.about.name(), topic, verdict, text })
        })
        .collect()
}

fn outliers(analysis: &Analysis) -> Option<Finding> {
    let all = &analysis.further.outliers;
    let told = |one: &crate::further::Outlier| {
        let curve = &analysis.curves[one.curve];
        format!(
            "{} in {}{} at n = {}: {} where {} was to be expected",
            words::language(&one.lang),
            curve.task,
            words::series_suffix(&curve.series),
            one.n,
            curve.unit.value(one.value),
            curve.unit.value(one.expected)
        )
    };
    let headline: Vec<_> = all.iter().filter(|one| analysis.curves[one.curve].headline).collect();
    if headline.is_empty() {
        return None;
    }
    let named: Vec<String> = headline.iter().take(NAMED).map(|one| told(one)).collect();
    let rest = headline.len() - named.len();
    let rest = if rest > 0 { format!("; {rest} more in the table") } else { String::new() };
    let text = format!("Scores that do not fit their neighbours: {}{rest}.", named.join("; "));
    Some(Finding { about: "Outliers".into(), topic: "Outliers", verdict: Verdict::Clear, text })
}

fn mixture(answers: &Answers) -> Vec<Finding> {
    let told = |one: &crate::further::Suggestion| Finding {
        about: if one.about.is_empty() { "All runs".into() } else { one.about.clone() },
        topic: "Mixture",
        verdict: one.verdict,
        text: suggest::sentence(one),
    };
    answers.suggestions.iter().map(told).collect()
}
