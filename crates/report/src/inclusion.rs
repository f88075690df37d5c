//! A language with and without examples of its own: zero-shot against direct, at the same n.
//!
//! Inclusion effect = score with the language in the mixture − without it. Transfer ratio =
//! (without − base) / (with − base), base being English alone. Of all pairs of mixtures with and
//! without the language those count that are nearest: best, the language alone tells them apart;
//! else both hold as many languages, so that their budgets agree.

use ::statistics::transfer_ratio;

use crate::bootstrap::runs;
use crate::further::{Inclusion, Ratio};
use crate::ground::{Ground, Over, Place, Term};
use crate::quantity::adjust;
use crate::read::Group;

/// For each task, metric, model, setting, n and language that some mixtures hold and others do not.
pub(crate) fn inclusions(ground: &Ground) -> Vec<Inclusion> {
    let mut all = Vec::new();
    for family in ground.families() {
        let mut found: Vec<Inclusion> = Vec::new();
        for n in grid(ground, &family) {
            for lang in languages(ground, &family, n) {
                found.extend(inclusion(ground, &family, n, &lang));
            }
        }
        adjust(found.iter_mut().map(|one| &mut one.effect.test));
        all.extend(found);
    }
    all
}

/// Every n with examples that some curve has.
fn grid(ground: &Ground, family: &[usize]) -> Vec<i64> {
    let mut grid: Vec<i64> = family
        .iter()
        .flat_map(|&at| &ground.curve(at).points)
        .map(|point| point.n)
        .filter(|&n| n > 0)
        .collect();
    grid.sort_unstable();
    grid.dedup();
    grid
}

/// Languages other than English that are scored at this n.
fn languages(ground: &Ground, family: &[usize], n: i64) -> Vec<String> {
    let mut langs: Vec<String> = family
        .iter()
        .filter_map(|&curve| ground.point(Place { curve, n }))
        .flat_map(|point| &point.languages)
        .filter(|one| one.group != Group::English)
        .map(|one| one.lang.clone())
        .collect();
    langs.sort();
    langs.dedup();
    langs
}

/// How a pair of mixtures differs, from the nearest on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    LanguageAlone,
    AsMany(usize),
    Different(usize),
}

impl Nearness {
    fn of(with: &[String], without: &[String]) -> Nearness {
        let lacks = |a: &[String], b: &[String]| {
            a.iter()
                .filter(|one| !b.iter().any(|other| language::same_language(one, other)))
                .count()
        };
        let (added, taken) = (lacks(with, without), lacks(without, with));
        match (added, taken) {
            (1, 0) => Nearness::LanguageAlone,
            (added, taken) if added == taken => Nearness::AsMany(added),
            (added, taken) => Nearness::Different(added + taken),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Nearness::LanguageAlone => "the language alone",
            Nearness::AsMany(_) => "as many languages",
            Nearness::Different(_) => "languages and their number",
        }
    }
}

fn inclusion(ground: &Ground, family: &[usize], n: i64, lang: &str) -> Option<Inclusion> {
    let group = |curve: usize| {
        let point = ground.point(Place { curve, n })?;
        point.languages.iter().find(|one| one.lang == lang).map(|one| one.group)
    };
    let of = |wanted: Group| family.iter().copied().filter(move |&at| group(at) == Some(wanted));
    let mut pairs = Vec::new();
    for with in of(Group::Seen) {
        for without in of(Group::Unseen) {
            let others = |at: usize| ground.curve(at).series.others();
            pairs.push((Nearness::of(&others(with), &others(without)), with, without));
        }
    }
    let nearest = pairs.iter().map(|pair| pair.0).min()?;
    pairs.retain(|pair| pair.0 == nearest);
    let weight = 1.0 / pairs.len() as f64;
    let over = Over::language(lang);
    let terms = |side: &dyn Fn(&(Nearness, usize, usize)) -> usize, sign: f64| -> Vec<Term> {
        pairs.iter().map(|pair| (sign * weight, Place { curve: side(pair), n })).collect()
    };
    let (with, without) = (terms(&|pair| pair.1, 1.0), terms(&|pair| pair.2, 1.0));
    let effect = ground.contrast(&[with.clone(), terms(&|pair| pair.2, -1.0)].concat(), &over)?;
    let name = |at: usize| ground.curve(at).series.others().join("+");
    let base = ground.base_of(pairs[0].1);
    let first = ground.curve(pairs[0].1);
    Some(Inclusion {
        about: first.about(),
        unit: first.unit,
        n,
        lang: lang.to_string(),
        with: pairs.iter().map(|pair| name(pair.1)).collect(),
        without: pairs.iter().map(|pair| name(pair.2)).collect(),
        pairing: nearest.name(),
        base: base.and_then(|place| ground.estimate(place, &over)),
        zero_shot: ground.estimate_of(&without, &over)?,
        direct: ground.estimate_of(&with, &over)?,
        ratio: base.and_then(|base| ratio(ground, &without, &with, base, &over)),
        effect,
    })
}

/// (without − base) / (with − base).
fn ratio(
    ground: &Ground,
    without: &[Term],
    with: &[Term],
    base: Place,
    over: &Over,
) -> Option<Ratio> {
    let statistic = |terms: &[Term]| ground.statistic(terms, over);
    let spread = ground.spread_of(&[(1.0, base)], over).map(|one| one.0);
    let found = transfer_ratio(
        ground.draws_of(base.curve).drawn(),
        &statistic(without)?,
        &statistic(with)?,
        &statistic(&[(1.0, base)])?,
        runs(spread),
        0.95,
    );
    Some(match found {
        Ok(ratio) => Ratio {
            value: Some(ratio.value),
            interval: Some((ratio.interval.low, ratio.interval.high)),
            withheld: None,
        },
        Err(reason) => Ratio { value: None, interval: None, withheld: Some(reason.to_string()) },
    })
}
