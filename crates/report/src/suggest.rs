//! A mixture for a budget and the languages it is for, from the curves that were measured.
//!
//! Every mixture that was measured is a candidate: the budget is shared evenly over its languages
//! other than English, and its curve along n says what the target languages would score there. No
//! candidate goes beyond the largest n it was measured at. The best stands only as far as its lead
//! over the others stands out of the noise.

use ::statistics::{Response, Series, choose};

use crate::answers::capital;
use crate::findings::Verdict;
use crate::further::{Expected, Suggestion};
use crate::ground::{Ground, Over, Place};
use crate::plateau::series;
use crate::words::{self, list};

/// Draws that predictions are compared over.
const DRAWS: usize = 1000;
/// What stands for the mean over the languages asked for.
const MEAN: &str = "mean";
/// Share of draws in which the best must lead.
const SURE: f64 = 0.95;

/// What the settings ask for.
pub(crate) struct Wish<'a> {
    /// Examples per task beside the English ones.
    pub budget: i64,
    /// Empty for all languages but English.
    pub targets: &'a [String],
}

/// One suggestion for each model and setting, by its headline metrics.
pub(crate) fn suggestions(ground: &Ground, wish: &Wish) -> Vec<Suggestion> {
    let groups = ground.grouped(|curve| {
        let series = &curve.series;
        curve.headline.then(|| (series.model.clone(), series.setting.clone()))
    });
    groups
        .iter()
        .filter(|group| ground.curve(group[0]).headline)
        .map(|group| suggestion(ground, group, wish))
        .collect()
}

/// A mixture with its predictions, one for each task.
struct Candidate {
    langs: Vec<String>,
    /// Examples per language.
    n: f64,
    /// Whether the budget would allow more than was measured.
    capped: bool,
    tasks: Vec<Predicted>,
}

/// One task's targets under a mixture, as a share of the metric's scale.
struct Predicted {
    curve: usize,
    value: f64,
    draws: Option<Vec<f64>>,
}

impl Candidate {
    /// Mean over the tasks.
    fn value(&self) -> f64 {
        self.tasks.iter().map(|task| task.value).sum::<f64>() / self.tasks.len() as f64
    }

    fn draw(&self, at: usize) -> Option<f64> {
        let values: Option<Vec<f64>> =
            self.tasks.iter().map(|task| task.draws.as_ref()?.get(at).copied()).collect();
        values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Share of the draws in which it is above another; `None` without draws.
    fn leads(&self, other: &Candidate) -> Option<f64> {
        let leads: Option<Vec<bool>> =
            (0..DRAWS).map(|at| Some(self.draw(at)? > other.draw(at)?)).collect();
        leads.map(|leads| leads.iter().filter(|one| **one).count() as f64 / leads.len() as f64)
    }

    fn name(&self) -> String {
        self.langs.join("+")
    }
}

fn suggestion(ground: &Ground, group: &[usize], wish: &Wish) -> Suggestion {
    let first = ground.curve(group[0]);
    let about = [first.series.model.as_str(), first.series.setting.as_str()];
    let scored: Vec<String> = scored(ground, group);
    let wanted = if wish.targets.is_empty() { scored.clone() } else { wish.targets.to_vec() };
    let (targets, unknown): (Vec<String>, Vec<String>) = wanted
        .iter()
        .map(|target| {
            scored.iter().find(|one| language::same_language(one, target)).unwrap_or(target)
        })
        .cloned()
        .partition(|target| scored.contains(target));
    let mut made = Suggestion {
        about: about.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · "),
        budget: wish.budget,
        targets: wanted,
        counts: Vec::new(),
        expected: Vec::new(),
        verdict: Verdict::NoInterval,
        note: String::new(),
    };
    let mut notes = Vec::new();
    if !unknown.is_empty() {
        notes.push(format!("there are no scores in {}, so nothing is said of it", list(&unknown)));
    }
    let mut candidates = candidates(ground, group, &targets, wish.budget);
    candidates.sort_by(|a, b| b.value().total_cmp(&a.value()));
    let Some((best, rest)) = candidates.split_first() else {
        notes.push("no mixture was measured at enough n to fit a curve to".into());
        made.note = list(&notes);
        return made;
    };
    let leads: Vec<(String, Option<f64>)> =
        rest.iter().map(|other| (other.name(), best.leads(other))).collect();
    let unsure: Vec<String> = leads
        .iter()
        .filter(|(_, share)| share.is_some_and(|share| share < SURE))
        .map(|(name, share)| format!("{name} ({:.0} %)", 100.0 * share.unwrap_or_default()))
        .collect();
    made.verdict = match () {
        () if rest.is_empty() || leads.iter().any(|(_, share)| share.is_none()) => {
            Verdict::NoInterval
        }
        () if unsure.is_empty() => Verdict::Clear,
        () => Verdict::WithinNoise,
    };
    match made.verdict {
        Verdict::WithinNoise => notes.push(format!(
            "its lead is within noise: the share of draws in which it is ahead of {}",
            list(&unsure)
        )),
        Verdict::NoInterval if rest.is_empty() => {
            notes.push("no other mixture was measured, so there is nothing to choose from".into());
        }
        Verdict::NoInterval => {
            notes.push("nothing can be resampled, so the lead has no interval".into());
        }
        _ => notes.push(format!(
            "ahead of every other mixture measured in {:.0} % of draws or more",
            100.0 * SURE
        )),
    }
    if best.capped {
        notes.push(format!(
            "the budget would allow more than the {} examples a language that were measured; nothing is known beyond them",
            best.n
        ));
    }
    made.counts = best.langs.iter().map(|lang| (lang.clone(), best.n as i64)).collect();
    made.expected = best
        .tasks
        .iter()
        .flat_map(|task| {
            let one = |lang: &str, over: &Over| expected(ground, task.curve, best.n, lang, over);
            let mean = one(MEAN, &Over::Mean(targets.clone()));
            let each = targets.iter().filter_map(|lang| one(lang, &Over::language(lang)));
            mean.into_iter().chain(each).collect::<Vec<_>>()
        })
        .collect();
    made.note = notes.join("; ");
    made
}

/// Languages other than English that a group's curves score.
fn scored(ground: &Ground, group: &[usize]) -> Vec<String> {
    let points = group.iter().flat_map(|&at| &ground.curve(at).points);
    let mut langs: Vec<String> =
        points.flat_map(|point| point.others()).map(|one| one.lang.clone()).collect();
    langs.sort();
    langs.dedup();
    langs
}

/// The mixtures of a group, each with the tasks that it was measured on; those of the most tasks.
fn candidates(ground: &Ground, group: &[usize], targets: &[String], budget: i64) -> Vec<Candidate> {
    let over = Over::Mean(targets.to_vec());
    let mut all: Vec<Candidate> = Vec::new();
    for of_task in group.chunk_by(|&a, &b| ground.curve(a).task == ground.curve(b).task) {
        let wanted: Vec<(usize, f64, bool)> = of_task
            .iter()
            .filter(|_| !targets.is_empty())
            .filter_map(|&at| {
                let curve = ground.curve(at);
                let langs = curve.series.others().len();
                let largest = curve.points.last().map_or(0, |point| point.n) as f64;
                let share = (budget as f64 / langs as f64).floor();
                (langs > 0).then(|| (at, share.min(largest), share > largest))
            })
            .collect();
        let places: Vec<(usize, f64)> = wanted.iter().map(|&(at, n, _)| (at, n)).collect();
        for (&(at, n, capped), found) in wanted.iter().zip(predict(ground, &places, &over)) {
            let Some((value, draws)) = found else { continue };
            let (curve, width) = (ground.curve(at), ground.curve(at).scale.width().unwrap_or(1.0));
            let draws = draws.map(|draws| draws.iter().map(|value| value / width).collect());
            let task = Predicted { curve: at, value: value / width, draws };
            let langs = curve.series.others();
            match all.iter_mut().find(|one| one.langs == langs && one.n == n) {
                Some(candidate) => candidate.tasks.push(task),
                None => all.push(Candidate { langs, n, capped, tasks: vec![task] }),
            }
        }
    }
    let most = all.iter().map(|one| one.tasks.len()).max().unwrap_or(0);
    all.retain(|one| one.tasks.len() == most);
    all
}

/// A number at some n, and its draws where there are any.
type Prediction = (f64, Option<Vec<f64>>);
/// A curve's points with their places, where there are enough.
type Known = Option<(Series, Vec<Place>)>;

/// A number at an n of each of several curves of one task. All are drawn at once, so that every
/// measured point is a run of its own.
fn predict(ground: &Ground, places: &[(usize, f64)], over: &Over) -> Vec<Option<Prediction>> {
    let known: Vec<Known> = places.iter().map(|&(at, _)| series(ground, at, over)).collect();
    let measured: Vec<Place> = known.iter().flatten().flat_map(|one| one.1.clone()).collect();
    let mut draws = draws(ground, &measured, over).map(Vec::into_iter);
    let one = |(&(_, n), known): (&(usize, f64), &Known)| {
        let (series, own) = known.as_ref()?;
        let drawn: Option<Vec<Vec<f64>>> =
            draws.as_mut().map(|draws| draws.by_ref().take(own.len()).collect());
        match drawn.and_then(|drawn| Response::new(series, &drawn).ok()) {
            Some(response) => Some((response.at(n, 0.95).ok()?.value, Some(response.draws_at(n)))),
            None => plain(series, n).map(|value| (value, None)),
        }
    };
    places.iter().zip(&known).map(one).collect()
}

fn draws(ground: &Ground, places: &[Place], over: &Over) -> Option<Vec<Vec<f64>>> {
    let first = *places.first()?;
    let statistics: Vec<_> =
        places.iter().map(|&place| over.statistic(ground.point(place)?)).collect::<Option<_>>()?;
    let spread = ground.spread_of(&[(1.0, first)], over).map(|one| one.0);
    let mut all = ground.draws_of(first.curve).values(&statistics, spread)?;
    all.iter_mut().for_each(|draws| draws.truncate(DRAWS));
    Some(all)
}

/// The best curve at n; between two points and no more, the line between them.
fn plain(series: &Series, n: f64) -> Option<f64> {
    if let Ok(choice) = choose(series) {
        return Some(choice.best.at(n));
    }
    let next = series.n.iter().position(|&one| one >= n)?;
    let Some(before) = next.checked_sub(1) else { return series.value.first().copied() };
    let part = (n - series.n[before]) / (series.n[next] - series.n[before]);
    Some(series.value[before] * (1.0 - part) + series.value[next] * part)
}

fn expected(ground: &Ground, at: usize, n: f64, lang: &str, over: &Over) -> Option<Expected> {
    let curve = ground.curve(at);
    let (value, draws) = predict(ground, &[(at, n)], over).pop()??;
    let interval = draws.map(|mut draws| {
        draws.sort_unstable_by(f64::total_cmp);
        let end = |level| ::statistics::quantile(&draws, level);
        (end(0.025), end(0.975))
    });
    let within = |value: f64| match curve.scale.range {
        Some((low, high)) => value.clamp(low, high),
        None => value,
    };
    Some(Expected {
        task: curve.task.clone(),
        metric: curve.metric.clone(),
        unit: curve.unit,
        lang: lang.to_string(),
        curve: at,
        extrapolated: false,
        value: within(value),
        interval: interval.map(|(low, high)| (within(low), within(high))),
    })
}

/// A suggestion in a sentence or two.
pub(crate) fn sentence(one: &Suggestion) -> String {
    let targets = list(&one.targets.iter().map(|lang| words::language(lang)).collect::<Vec<_>>());
    let budget = artifact::text::count(one.budget.unsigned_abs());
    if one.counts.is_empty() {
        return format!(
            "For {targets} and {budget} examples a task, none can be made: {}.",
            one.note
        );
    }
    let counts: Vec<String> = one
        .counts
        .iter()
        .map(|(lang, count)| {
            format!("{} of {}", artifact::text::count(count.unsigned_abs()), words::language(lang))
        })
        .collect();
    let expected: Vec<String> = one
        .expected
        .iter()
        .filter(|one| one.lang == MEAN)
        .map(|one| {
            let interval = one
                .interval
                .map(|ends| format!(" ({})", one.unit.interval(ends)))
                .unwrap_or_default();
            format!("{} {}{interval}", one.task, one.unit.value(one.value))
        })
        .collect();
    format!(
        "For {targets} and {budget} examples a task beside the English ones: {}. Expected mean over these languages, with 95 % intervals: {}. {}.",
        list(&counts),
        expected.join(", "),
        capital(&one.note)
    )
}
