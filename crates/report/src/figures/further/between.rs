//! Between languages and settings: the source × target map with donors and recipients, a language
//! with and without examples of its own, and two kinds of mixture side by side.

use super::{Figure, Gallery, Numbers, Theme, figure, keys, suffix};
use crate::analyse::Analysis;
use crate::bootstrap::Estimate;
use crate::chart::{Heat, HeatCell, Line, Lines, Mark, Panel, Row, RowMark, RowPanel, Rows, Scale};
use crate::figures::{MEAN, MOST_LINES, SEEN, SERIES, UNSEEN};
use crate::findings::Verdict;
use crate::further::{self, Inclusion, Matrix, PanelKind, Ratio};
use crate::quantity::Contrast;
use crate::words::{self, Unit};

/// One map for every matrix; those of smaller n stand folded below that of the largest.
pub(super) fn matrices(analysis: &Analysis, gallery: &mut Gallery) {
    for matrix in &analysis.further.matrices {
        let largest = analysis.further.matrices.iter().filter(|one| one.about == matrix.about);
        let largest = largest.map(|one| one.n).max().unwrap_or(matrix.n);
        let n = matrix.n.to_string();
        let mut keys = keys(&matrix.about);
        keys.push(("n", &n));
        let title = format!(
            "{}: what each mixture did for each language, n = {n}{}",
            matrix.about.task,
            suffix(&matrix.about)
        );
        let caption = format!(
            "{} less that of the baseline n = {}: mixtures down, scored languages across. Bold: clear; outlined: the mixture holds the language. \
             To the right the mean over the languages that the mixture does not hold (donor), below the mean over the mixtures that do not hold the language (recipient).",
            matrix.about.metric, matrix.baseline
        );
        let figure = figure(
            &matrix.about,
            Theme::Between,
            &format!("transfer n{n}"),
            title,
            caption,
            Numbers::of_keys("transfer_matrix", &keys),
        );
        gallery.add(Figure { folded: matrix.n != largest, ..figure }, &map(matrix));
    }
}

fn map(matrix: &Matrix) -> Heat {
    let unit = matrix.unit;
    let row = |(at, (_, source)): (usize, &(usize, String))| {
        let cell = |(target, cell): (&String, &Option<further::MatrixCell>)| {
            let cell = cell.as_ref()?;
            let name = format!("{source} for {}", words::language(target));
            Some(HeatCell { outlined: cell.own, ..contrast(&cell.gain, unit, &name) })
        };
        let cells = matrix.targets.iter().zip(&matrix.gains[at]).map(cell).collect();
        (source.clone(), cells)
    };
    let mean = |(name, one): (String, &Option<Contrast>)| {
        one.as_ref().map(|one| contrast(one, unit, &name))
    };
    let donors = matrix.sources.iter().zip(&matrix.donors);
    let donors = donors.map(|((_, source), one)| mean((format!("{source} as donor"), one)));
    let recipients = matrix.targets.iter().zip(&matrix.recipients);
    let recipients = recipients
        .map(|(lang, one)| mean((format!("{} as recipient", words::language(lang)), one)));
    Heat {
        scale: Scale::Diverging,
        row_title: "trained on".into(),
        column_title: "scored in".into(),
        columns: matrix.targets.clone(),
        column_langs: matrix.targets.iter().cloned().map(Some).collect(),
        rows: matrix.sources.iter().enumerate().map(row).collect(),
        row_means: Some(("donor".into(), donors.collect())),
        column_means: Some(("recipient".into(), recipients.collect())),
    }
}

fn contrast(one: &Contrast, unit: Unit, name: &str) -> HeatCell {
    let verdict = one.test.verdict();
    HeatCell {
        value: one.estimate.value,
        text: unit.signed(one.estimate.value),
        hover: format!("{name}: {} ({verdict})", unit.cell(&one.estimate, true)),
        bold: verdict == Verdict::Clear,
        outlined: false,
    }
}

/// Per task, metric, model and setting, at the largest n: before, without and with own examples.
pub(super) fn inclusions(analysis: &Analysis, gallery: &mut Gallery) {
    let all = &analysis.further.inclusions;
    for about in super::distinct(all.iter().map(|one| &one.about)) {
        let of = || all.iter().filter(|one| one.about == *about);
        let Some(n) = of().map(|one| one.n).max() else { continue };
        let shown: Vec<&Inclusion> = of().filter(|one| one.n == n).collect();
        let unit = shown[0].unit;
        let rows = shown.iter().map(|one| inclusion(one)).collect();
        let names = [
            (MEAN, format!("baseline, n = {}", analysis.baseline)),
            (UNSEEN, "without its examples (zero-shot)".to_string()),
            (SEEN, "with them (direct)".to_string()),
        ];
        let chart = Rows::values(
            unit,
            words::axis(&about.metric, unit),
            vec![RowPanel { title: String::new(), rows }],
            names.to_vec(),
        );
        let title = format!("{}: zero-shot against direct, n = {n}{}", about.task, suffix(about));
        let caption = format!(
            "{} of a language before any examples, from mixtures without it and from mixtures with it. Behind each the transfer ratio: \
             the share of the direct gain that came without own examples, withheld where the direct gain may be none.",
            about.metric
        );
        gallery.add(
            figure(
                about,
                Theme::Between,
                "inclusion",
                title,
                caption,
                Numbers::of_keys("zero_shot_direct", &keys(about)),
            ),
            &chart,
        );
    }
}

fn inclusion(one: &Inclusion) -> Row {
    let name = words::language(&one.lang);
    let values = [
        (MEAN, "baseline", one.base.as_ref()),
        (UNSEEN, "zero-shot", Some(&one.zero_shot)),
        (SEEN, "direct", Some(&one.direct)),
    ];
    let mark = |(style, side, estimate): (_, &str, Option<&Estimate>)| {
        let estimate = estimate?;
        let hover = format!("{name}, {side}: {}", one.unit.cell(estimate, false));
        Some(RowMark {
            style,
            value: estimate.value,
            interval: estimate.interval,
            hollow: side == "baseline",
            hover,
        })
    };
    Row {
        number: one.ratio.as_ref().map_or("–".into(), ratio),
        marks: values.into_iter().filter_map(mark).collect(),
        label: name.clone(),
        summary: false,
        lang: Some(one.lang.clone()),
    }
}

fn ratio(ratio: &Ratio) -> String {
    match (ratio.value, ratio.interval, &ratio.withheld) {
        (Some(value), interval, None) => {
            let ends = interval.map(|ends| format!(" ({})", Unit::Percent.interval(ends)));
            Unit::Percent.value(value).replace('-', "−") + &ends.unwrap_or_default()
        }
        _ => "withheld".into(),
    }
}

/// Two kinds of mixture side by side: their means along n, and their differences by language.
pub(super) fn panels(analysis: &Analysis, gallery: &mut Gallery) {
    for panel in &analysis.further.panels {
        let about = &panel.about;
        let (what, table) = match panel.kind {
            PanelKind::Scripts => ("scripts", "script_panels"),
            PanelKind::Settings => ("settings", "single_multi"),
        };
        let [first, second] = &panel.names;
        let mut keys = keys(about);
        keys.retain(|(name, _)| *name != "setting");
        keys.extend([("first", first.as_str()), ("second", second)]);
        let numbers = || Numbers::of_keys(table, &keys);
        let title = format!("{}: {first} against {second}", about.task);
        let caption = format!("Mean {} over the non-English languages along n.", about.metric);
        let lines = means(analysis, panel);
        gallery.add(figure(about, Theme::Trade, what, title, caption, numbers()), &lines);
        let title = format!("{}: {second} less {first}, by language", about.task);
        let caption = format!(
            "Difference in {} at the same n. Bold: clear. Blue: {second} is ahead; orange: {first} is.",
            about.metric
        );
        let word = format!("{what} by language");
        gallery.add(
            figure(about, Theme::Trade, &word, title, caption, numbers()),
            &by_language(panel),
        );
    }
}

/// The two sides, and the curves beside them.
fn means(analysis: &Analysis, panel: &further::Panel) -> Lines {
    let mark = |n: i64, name: &str, estimate: &Estimate| Mark {
        n,
        value: estimate.value,
        interval: estimate.interval,
        seeds: estimate.by_seed.clone(),
        hover: format!("{name}, n = {n}: {}", panel.unit.cell(estimate, false)),
    };
    let side = |at: usize| {
        let name = &panel.names[at];
        let points = panel.points.iter();
        let marks = points.filter_map(|point| Some(mark(point.n, name, point.means[at].as_ref()?)));
        (name, marks.collect())
    };
    let beside = |(curve, name): &'_ (usize, String)| -> Vec<Mark> {
        let points = analysis.curves[*curve].points.iter();
        points
            .filter_map(|point| Some(mark(point.n, name, &point.non_english.as_ref()?.estimate)))
            .collect()
    };
    let beside = panel.beside.iter().map(|one| (&one.1, beside(one)));
    let named: Vec<(&String, Vec<Mark>)> =
        [0, 1].map(side).into_iter().chain(beside).take(MOST_LINES).collect();
    let legend =
        named.iter().enumerate().map(|(at, (name, _))| (SERIES[at], name.to_string())).collect();
    let lines = named.into_iter().enumerate();
    let lines = lines.map(|(at, (_, marks))| Line { style: SERIES[at], marks }).collect();
    let panels = vec![Panel { lines, ..Panel::default() }];
    Lines::new(panel.unit, words::axis(&panel.about.metric, panel.unit), panels).legend(legend)
}

/// Languages down, n across.
fn by_language(panel: &further::Panel) -> Heat {
    let langs = super::distinct(
        panel.points.iter().flat_map(|point| &point.languages).map(|(lang, _)| lang),
    );
    let row = |lang: &&String| {
        let cell = |point: &further::PanelPoint| {
            let (_, one) = point.languages.iter().find(|(name, _)| name == *lang)?;
            let name = format!("{}, n = {}", words::language(lang), point.n);
            Some(contrast(one, panel.unit, &name))
        };
        (words::language(lang), panel.points.iter().map(cell).collect())
    };
    let mean = |point: &further::PanelPoint| {
        let name = format!("non-English mean, n = {}", point.n);
        point.non_english.as_ref().map(|one| contrast(one, panel.unit, &name))
    };
    Heat {
        scale: Scale::Diverging,
        row_title: "language".into(),
        column_title: "n".into(),
        columns: panel.points.iter().map(|point| point.n.to_string()).collect(),
        column_langs: Vec::new(),
        rows: langs.iter().map(row).collect(),
        row_means: None,
        column_means: Some(("non-English mean".into(), panel.points.iter().map(mean).collect())),
    }
}
