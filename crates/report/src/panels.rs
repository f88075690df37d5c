//! Two kinds of mixture side by side: Latin against other scripts (the study's script grid), and
//! single-task against multi-task. Mixtures are compared at the same n and with as many languages.

use std::collections::BTreeSet;

use crate::analyse::Curve;
use crate::further::{Panel, PanelBest, PanelKind, PanelPoint};
use crate::ground::{Ground, Over, Place, Term};
use crate::quantity::{Contrast, adjust};
use crate::read::Group;

/// What scripts a mixture's languages other than English are written in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Latin,
    Other,
    Both,
}

/// All panels.
pub(crate) fn panels(ground: &Ground) -> Vec<Panel> {
    let scripts = ground.families().into_iter().flat_map(|family| scripts(ground, &family));
    let across = ground.grouped(|curve| {
        let series = &curve.series;
        let about = curve.about();
        (about.task, about.metric, about.model, series.train_langs.clone(), series.variant.clone())
    });
    let settings = across.into_iter().filter_map(|curves| settings(ground, &curves));
    let mut panels: Vec<Panel> = scripts.chain(settings).collect();
    for kind in [PanelKind::Scripts, PanelKind::Settings] {
        let best = panels.iter_mut().filter(|panel| panel.kind == kind);
        adjust(best.filter_map(|panel| panel.best.as_mut()).map(|best| &mut best.difference.test));
    }
    panels
}

fn script(curve: &Curve) -> Option<Script> {
    let langs = curve.series.others();
    let latin = langs
        .iter()
        .filter(|lang| language::normalise(lang).is_some_and(|tag| tag.script == "Latn"))
        .count();
    match (latin, langs.len()) {
        (_, 0) => None,
        (0, _) => Some(Script::Other),
        (latin, all) if latin == all => Some(Script::Latin),
        _ => Some(Script::Both),
    }
}

/// One panel for each number of languages that there are mixtures of both scripts with.
fn scripts(ground: &Ground, family: &[usize]) -> Vec<Panel> {
    let of = |wanted: Script, count: Option<usize>| -> Vec<usize> {
        let fits = |&&at: &&usize| {
            let curve = ground.curve(at);
            script(curve) == Some(wanted)
                && count.is_none_or(|count| curve.series.others().len() == count)
        };
        family.iter().filter(fits).copied().collect()
    };
    let counts: BTreeSet<usize> =
        family.iter().map(|&at| ground.curve(at).series.others().len()).collect();
    let name = |script: &str, curves: &[usize]| {
        let langs: Vec<String> =
            curves.iter().map(|&at| ground.curve(at).series.others().join("+")).collect();
        format!("{script}: {}", langs.join(", "))
    };
    let panel = |count: usize| {
        let (latin, other) = (of(Script::Latin, Some(count)), of(Script::Other, Some(count)));
        if latin.is_empty() || other.is_empty() {
            return None;
        }
        let beside = of(Script::Both, None)
            .into_iter()
            .map(|at| (at, format!("both: {}", ground.curve(at).series.others().join("+"))))
            .collect();
        let names = [name("Latin", &latin), name("other scripts", &other)];
        Some(make(ground, PanelKind::Scripts, [latin, other], names, beside))
    };
    counts.into_iter().filter_map(panel).collect()
}

fn settings(ground: &Ground, curves: &[usize]) -> Option<Panel> {
    let of = |start: &str| -> Vec<usize> {
        let fits = |&&at: &&usize| ground.curve(at).series.setting.starts_with(start);
        curves.iter().filter(fits).copied().collect()
    };
    let sides = [of("single"), of("multi")];
    let names = sides
        .each_ref()
        .map(|side| side.first().map(|&at| ground.curve(at).series.setting.clone()));
    let [Some(single), Some(multi)] = names else { return None };
    Some(make(ground, PanelKind::Settings, sides, [single, multi], Vec::new()))
}

fn make(
    ground: &Ground,
    kind: PanelKind,
    curves: [Vec<usize>; 2],
    names: [String; 2],
    beside: Vec<(usize, String)>,
) -> Panel {
    let first = ground.curve(curves[0][0]);
    let sides = Sides { ground, curves: &curves };
    let mut points: Vec<PanelPoint> = sides.grid().into_iter().map(|n| sides.point(n)).collect();
    adjust(points.iter_mut().flat_map(|point| &mut point.languages).map(|(_, one)| &mut one.test));
    adjust(points.iter_mut().flat_map(|point| {
        [&mut point.non_english, &mut point.unseen_by_both]
            .into_iter()
            .flatten()
            .map(|one| &mut one.test)
    }));
    let (about, unit, best) = (first.about(), first.unit, sides.best());
    Panel { about, unit, kind, names, beside, points, best }
}

/// The two sides of a panel.
struct Sides<'a> {
    ground: &'a Ground<'a>,
    curves: &'a [Vec<usize>; 2],
}

impl Sides<'_> {
    /// The n at which every curve has scores.
    fn grid(&self) -> Vec<i64> {
        let all: Vec<usize> = self.curves.iter().flatten().copied().collect();
        let points = &self.ground.curve(all[0]).points;
        let shared =
            |n: &i64| all.iter().all(|&curve| self.ground.point(Place { curve, n: *n }).is_some());
        points.iter().map(|point| point.n).filter(shared).collect()
    }

    /// The languages that every curve scores at this n, in the order of the first, with whether
    /// some curve was trained on them.
    fn languages(&self, n: [i64; 2]) -> Vec<(String, Group)> {
        let points: Vec<_> = self
            .curves
            .iter()
            .zip(n)
            .flat_map(|(side, n)| side.iter().map(move |&curve| Place { curve, n }))
            .filter_map(|place| self.ground.point(place))
            .collect();
        let Some(first) = points.first() else { return Vec::new() };
        let group = |lang: &str| {
            let of = points.iter().map(|point| {
                point.languages.iter().find(|one| one.lang == lang).map(|one| one.group)
            });
            let groups: Option<Vec<Group>> = of.collect();
            groups.and_then(|groups| groups.into_iter().min())
        };
        first
            .languages
            .iter()
            .filter_map(|one| Some((one.lang.clone(), group(&one.lang)?)))
            .collect()
    }

    fn terms(&self, side: usize, n: i64, sign: f64) -> Vec<Term> {
        let weight = sign / self.curves[side].len() as f64;
        self.curves[side].iter().map(|&curve| (weight, Place { curve, n })).collect()
    }

    /// The second side less the first.
    fn contrast(&self, n: [i64; 2], over: &Over) -> Option<Contrast> {
        let terms = [self.terms(1, n[1], 1.0), self.terms(0, n[0], -1.0)].concat();
        self.ground.contrast(&terms, over)
    }

    fn over(&self, n: [i64; 2], wanted: impl Fn(Group) -> bool) -> Option<Over> {
        let languages = self.languages(n).into_iter().filter(|(_, group)| wanted(*group));
        let langs: Vec<String> = languages.map(|(lang, _)| lang).collect();
        (!langs.is_empty()).then_some(Over::Mean(langs))
    }

    fn point(&self, n: i64) -> PanelPoint {
        let both = [n, n];
        let others = self.over(both, |group| group != Group::English);
        let unseen = self.over(both, |group| group == Group::Unseen);
        let languages = self.languages(both).into_iter();
        let mean =
            |side: usize| self.ground.estimate_of(&self.terms(side, n, 1.0), others.as_ref()?);
        PanelPoint {
            n,
            means: [mean(0), mean(1)],
            languages: languages
                .filter_map(|(lang, _)| {
                    let contrast = self.contrast(both, &Over::language(&lang))?;
                    Some((lang, contrast))
                })
                .collect(),
            non_english: others.as_ref().and_then(|over| self.contrast(both, over)),
            unseen_by_both: unseen.as_ref().and_then(|over| self.contrast(both, over)),
        }
    }

    /// The best of each side over all of its own n.
    fn best(&self) -> Option<PanelBest> {
        let highest = |side: usize| {
            let points = &self.ground.curve(self.curves[side][0]).points;
            let value = |n: i64| {
                let over = self.over_of_side(side, n)?;
                let terms = self.terms(side, n, 1.0);
                Some((n, self.ground.estimate_of(&terms, &over)?.value))
            };
            points
                .iter()
                .filter_map(|point| value(point.n))
                .reduce(|a, b| if b.1 > a.1 { b } else { a })
        };
        let (first, second) = (highest(0)?, highest(1)?);
        let n = [first.0, second.0];
        let over = self.over(n, |group| group != Group::English)?;
        Some(PanelBest { n, values: [first.1, second.1], difference: self.contrast(n, &over)? })
    }

    fn over_of_side(&self, side: usize, n: i64) -> Option<Over> {
        let point = self.ground.point(Place { curve: self.curves[side][0], n })?;
        let others = point.languages.iter().filter(|one| one.group != Group::English);
        let langs: Vec<String> = others.map(|one| one.lang.clone()).collect();
        (!langs.is_empty()).then_some(Over::Mean(langs))
    }
}
