//! One table for each further analysis that found something, from its plain data.

use crate::analyse::Analysis;
use crate::further::{
    About, Detectable, Further, GapShape, Inclusion, NoiseOf, NoiseSource, Panel, PanelKind, Shape,
};
use crate::quantity::{Contrast, Test};
use crate::table::{Cell, Column, NO_CURVE, Row, Table};
use crate::tables::{Keys, test_cells};
use crate::words::Unit;

/// All of them, in the order of the report.
pub(crate) fn all(analysis: &Analysis) -> Vec<Table> {
    let (of, keys) = (&analysis.further, Keys::new(analysis));
    let curves = OfCurves { analysis, keys };
    let tables = [
        panels(of, PanelKind::Scripts),
        panels(of, PanelKind::Settings),
        best(of),
        matrix(of),
        matrix_means(of),
        inclusions(of),
        curves.fidelity(),
        curves.extraction(),
        curves.plateaus(),
        pareto(analysis),
        variance(of),
        curves.following(),
        curves.gaps(),
        curves.outliers(),
        noise(of),
        curves.detectable(),
        suggestion(analysis),
    ];
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

fn table(name: &str, caption: &str, columns: Vec<Column>, rows: Vec<Row>) -> Table {
    Table { name: name.into(), caption: caption.into(), columns, rows }
}

fn row(cells: Vec<Cell>) -> Row {
    Row { curve: NO_CURVE, cells }
}

fn key(names: &[(&str, &str)]) -> Vec<Column> {
    names.iter().map(|(name, title)| Column::key(name, title)).collect()
}

fn measure(names: &[(&str, &str)]) -> Vec<Column> {
    names.iter().map(|(name, title)| Column::measure(name, title)).collect()
}

fn remark(names: &[(&str, &str)]) -> Vec<Column> {
    names.iter().map(|(name, title)| Column::remark(name, title)).collect()
}

const ABOUT: [(&str, &str); 4] =
    [("task", "Task"), ("metric", "Metric"), ("model", "Model"), ("setting", "Setting")];

fn about(about: &About) -> Vec<Cell> {
    [&about.task, &about.metric, &about.model, &about.setting].map(Cell::text).to_vec()
}

const TEST: [(&str, &str); 4] =
    [("p", "p"), ("p_holm", "p (Holm)"), ("p_bh", "p (BH)"), ("verdict", "Verdict")];

fn tested(test: &Test) -> Vec<Cell> {
    let [holm, verdict] = test_cells(Some(test));
    vec![Cell::probability(test.p), holm, Cell::probability(test.p_bh), verdict]
}

fn difference(contrast: Option<&Contrast>, unit: Unit) -> Vec<Cell> {
    let cell = Cell::difference(contrast.map(|one| &one.estimate), unit);
    let test = contrast.map_or_else(|| vec![Cell::Empty; 4], |one| tested(&one.test));
    [vec![cell], test].concat()
}

fn number(value: Option<f64>, unit: Unit) -> Cell {
    value.map_or(Cell::Empty, |value| Cell::number(value, unit))
}

fn count(value: Option<usize>) -> Cell {
    value.map_or(Cell::Empty, |value| Cell::Count(value as i64))
}

fn panels(further: &Further, kind: PanelKind) -> Table {
    let columns = [
        key(&ABOUT),
        key(&[
            ("kind", "Of"),
            ("first", "First"),
            ("second", "Second"),
            ("n", "n"),
            ("lang", "Language"),
        ]),
        measure(&[("difference", "Second less first")]),
        remark(&TEST),
    ];
    let mut rows = Vec::new();
    for panel in further.panels.iter().filter(|panel| panel.kind == kind) {
        for point in &panel.points {
            let means = [
                ("mean_non_en", point.non_english.as_ref()),
                ("mean_unseen_by_both", point.unseen_by_both.as_ref()),
            ];
            let languages =
                point.languages.iter().map(|(lang, contrast)| (lang.as_str(), Some(contrast)));
            for (lang, contrast) in languages.chain(means).filter(|(_, one)| one.is_some()) {
                let mut cells = panel_cells(panel);
                cells.extend([Cell::Count(point.n), Cell::text(lang)]);
                cells.extend(difference(contrast, panel.unit));
                rows.push(row(cells));
            }
        }
    }
    let (name, caption) = match kind {
        PanelKind::Scripts => ("script_panels", "Latin against other scripts at the same n"),
        PanelKind::Settings => ("single_multi", "Single-task against multi-task at the same n"),
    };
    table(name, caption, columns.concat(), rows)
}

fn panel_cells(panel: &Panel) -> Vec<Cell> {
    let mut cells = about(&panel.about);
    cells.push(Cell::text(match panel.kind {
        PanelKind::Scripts => "scripts",
        PanelKind::Settings => "settings",
    }));
    cells.extend(panel.names.each_ref().map(Cell::text));
    cells
}

fn best(further: &Further) -> Table {
    let columns = [
        key(&ABOUT),
        key(&[("kind", "Of"), ("first", "First"), ("second", "Second")]),
        key(&[("n_first", "n"), ("n_second", "n")]),
        measure(&[
            ("best_first", "Best of the first"),
            ("best_second", "Best of the second"),
            ("difference", "Second less first"),
        ]),
        remark(&TEST),
    ];
    let rows = further.panels.iter().filter_map(|panel| {
        let best = panel.best.as_ref()?;
        let mut cells = panel_cells(panel);
        cells.extend(best.n.map(Cell::Count));
        cells.extend(best.values.map(|value| Cell::number(value, panel.unit)));
        cells.extend(difference(Some(&best.difference), panel.unit));
        Some(row(cells))
    });
    let caption = "The highest mean over the non-English languages, side against side";
    table("panels_best", caption, columns.concat(), rows.collect())
}

fn matrix(further: &Further) -> Table {
    let columns = [
        key(&ABOUT),
        key(&[("n", "n"), ("source", "Source"), ("target", "Target"), ("own", "Trained on")]),
        measure(&[("gain", "Gain")]),
        remark(&TEST),
    ];
    let mut rows = Vec::new();
    for matrix in &further.matrices {
        for ((_, source), gains) in matrix.sources.iter().zip(&matrix.gains) {
            for (target, cell) in matrix.targets.iter().zip(gains) {
                let Some(cell) = cell else { continue };
                let mut cells = about(&matrix.about);
                cells.extend([Cell::Count(matrix.n), Cell::text(source), Cell::text(target)]);
                cells.push(Cell::text(if cell.own { "yes" } else { "no" }));
                cells.extend(difference(Some(&cell.gain), matrix.unit));
                rows.push(row(cells));
            }
        }
    }
    let caption = "Source × target: gains over the baseline by mixture and language";
    table("transfer_matrix", caption, columns.concat(), rows)
}

fn matrix_means(further: &Further) -> Table {
    let columns = [
        key(&ABOUT),
        key(&[("n", "n"), ("role", "Role"), ("lang", "Languages")]),
        measure(&[("gain", "Mean gain")]),
        remark(&TEST),
    ];
    let mut rows = Vec::new();
    for matrix in &further.matrices {
        let donors = matrix.sources.iter().map(|(_, name)| name).zip(&matrix.donors);
        let recipients = matrix.targets.iter().zip(&matrix.recipients);
        let all = donors.map(|one| ("donor", one)).chain(recipients.map(|one| ("recipient", one)));
        for (role, (lang, contrast)) in all {
            let Some(contrast) = contrast else { continue };
            let mut cells = about(&matrix.about);
            cells.extend([Cell::Count(matrix.n), Cell::text(role), Cell::text(lang)]);
            cells.extend(difference(Some(contrast), matrix.unit));
            rows.push(row(cells));
        }
    }
    let caption = "Donors (mean gain of languages that the mixture does not hold) and recipients (mean gain from mixtures that do not hold the language)";
    table("donors_recipients", caption, columns.concat(), rows)
}

fn inclusions(further: &Further) -> Table {
    let columns = [
        key(&ABOUT),
        key(&[("n", "n"), ("lang", "Language"), ("pairing", "Pairs differ in")]),
        measure(&[
            ("base", "Baseline"),
            ("zero_shot", "Zero-shot"),
            ("direct", "Direct"),
            ("effect", "Inclusion effect"),
            ("transfer_ratio", "Transfer ratio"),
        ]),
        remark(&TEST),
        remark(&[("withheld", "Ratio withheld"), ("with", "With"), ("without", "Without")]),
    ];
    let line = |one: &Inclusion| {
        let mut cells = about(&one.about);
        cells.extend([Cell::Count(one.n), Cell::text(&one.lang), Cell::text(one.pairing)]);
        cells.push(Cell::measure(one.base.as_ref(), one.unit));
        cells.push(Cell::measure(Some(&one.zero_shot), one.unit));
        cells.push(Cell::measure(Some(&one.direct), one.unit));
        let effect = difference(Some(&one.effect), one.unit);
        cells.push(effect[0].clone());
        let ratio = one.ratio.as_ref();
        cells.push(ratio.and_then(|ratio| ratio.value).map_or(Cell::Empty, |value| {
            let interval = ratio.and_then(|ratio| ratio.interval);
            Cell::Measure { value, interval, unit: Unit::Raw, signed: false }
        }));
        cells.extend(effect[1..].iter().cloned());
        let withheld = ratio.and_then(|ratio| ratio.withheld.as_ref());
        cells.push(withheld.map_or(Cell::Empty, Cell::text));
        cells.extend([&one.with, &one.without].map(|names| Cell::Text(names.join(", "))));
        row(cells)
    };
    let caption = "Zero-shot against direct: a language without and with examples of its own";
    let rows = further.inclusions.iter().map(line).collect();
    table("zero_shot_direct", caption, columns.concat(), rows)
}

fn pareto(analysis: &Analysis) -> Table {
    let columns = [
        key(&ABOUT),
        key(&[("train_langs", "Trained on"), ("n", "n")]),
        measure(&[("english", "English"), ("mean_non_en", "Non-English")]),
        remark(&[("on_front", "On the front"), ("probability", "Share of draws")]),
    ];
    let mut rows = Vec::new();
    for front in &analysis.further.pareto {
        for point in &front.points {
            let curve = &analysis.curves[point.curve];
            let mut cells = about(&curve.about());
            cells.extend([Cell::text(&curve.series.train_langs), Cell::Count(point.n)]);
            cells.push(Cell::measure(Some(&point.english), front.unit));
            cells.push(Cell::measure(Some(&point.non_english), front.unit));
            cells.push(Cell::text(if point.on_front { "yes" } else { "no" }));
            cells.push(number(point.probability, Unit::Percent));
            rows.push(Row { curve: point.curve, cells });
        }
    }
    let caption =
        "English against the rest: what nothing else beats in one without losing in the other";
    table("pareto", caption, columns.concat(), rows)
}

fn variance(further: &Further) -> Table {
    let columns = [
        key(&[("of", "Of"), ("response", "Response"), ("factors", "Factors")]),
        measure(&[("share", "Share of variance")]),
        remark(&[("note", "Note")]),
    ];
    let mut rows = Vec::new();
    for variance in &further.variance {
        for part in &variance.parts {
            let (value, interval) = (part.share, part.interval);
            rows.push(row(vec![
                Cell::text(&variance.about),
                Cell::text(&variance.response),
                Cell::text(&part.factors),
                Cell::Measure { value, interval, unit: Unit::Percent, signed: false },
                Cell::text(&variance.note),
            ]));
        }
    }
    table("variance_shares", "What the scores vary with", columns.concat(), rows)
}

fn noise(further: &Further) -> Table {
    let columns = [
        key(&ABOUT),
        key(&[("of", "Of"), ("source", "Seen in")]),
        measure(&[
            ("sd", "SD of one run"),
            ("range", "Range"),
            ("threshold", "Within noise below"),
        ]),
        remark(&[("degrees_of_freedom", "Degrees of freedom"), ("runs", "Runs")]),
    ];
    let line = |one: &crate::further::RunNoise| {
        let mut cells = about(&one.about);
        let runs: Vec<String> = one
            .runs
            .iter()
            .map(|(name, value)| format!("{name} {}", one.unit.number(*value)))
            .collect();
        cells.extend([
            Cell::text(match one.of {
                NoiseOf::Language => "one language",
                NoiseOf::NonEnglishMean => "mean over the non-English languages",
            }),
            Cell::text(match one.source {
                NoiseSource::Seeds => "runs that differ in their seeds",
                NoiseSource::SameData => "runs of the same data",
                NoiseSource::AlongN => "departures along n",
            }),
            Cell::number(one.sd, one.unit),
            number(one.range, one.unit),
            Cell::number(one.threshold, one.unit),
            Cell::number(one.degrees_of_freedom, Unit::Raw),
            if runs.is_empty() { Cell::Empty } else { Cell::Text(runs.join("; ")) },
        ]);
        row(cells)
    };
    let caption = "How far runs of one experiment differ";
    table("run_noise", caption, columns.concat(), further.noise.iter().map(line).collect())
}

fn suggestion(analysis: &Analysis) -> Table {
    let columns = [
        key(&[("for", "For"), ("budget", "Budget"), ("mixture", "Mixture")]),
        key(&[("task", "Task"), ("metric", "Metric"), ("lang", "Language")]),
        measure(&[("expected", "Expected")]),
        remark(&[("verdict", "Verdict"), ("note", "Note")]),
    ];
    let mut rows = Vec::new();
    for one in &analysis.answers.suggestions {
        let counts: Vec<String> =
            one.counts.iter().map(|(lang, count)| format!("{lang}: {count}")).collect();
        for expected in &one.expected {
            let (value, interval) = (expected.value, expected.interval);
            rows.push(Row {
                curve: expected.curve,
                cells: vec![
                    Cell::text(&one.about),
                    Cell::Count(one.budget),
                    Cell::Text(counts.join(", ")),
                    Cell::text(&expected.task),
                    Cell::text(&expected.metric),
                    Cell::text(&expected.lang),
                    Cell::Measure { value, interval, unit: expected.unit, signed: false },
                    Cell::text(one.verdict.to_string()),
                    Cell::text(&one.note),
                ],
            });
        }
    }
    let caption = "A mixture for the budget and languages asked for, with its expected scores";
    table("suggestion", caption, columns.concat(), rows)
}

/// Tables whose rows belong to curves.
struct OfCurves<'a> {
    analysis: &'a Analysis,
    keys: Keys,
}

impl OfCurves<'_> {
    fn row(&self, curve: usize, n: Option<i64>, cells: Vec<Cell>) -> Row {
        Row { curve, cells: [self.keys.cells(&self.analysis.curves[curve], n), cells].concat() }
    }

    fn unit(&self, curve: usize) -> Unit {
        self.analysis.curves[curve].unit
    }

    fn fidelity(&self) -> Table {
        let columns = [
            self.keys.columns(true),
            key(&[("lang", "Language")]),
            measure(&[
                ("line_pass", "LPR"),
                ("word_pass", "WPR"),
                ("combined", "LCPR"),
                ("asked", "As asked"),
                ("english", "English"),
                ("other", "Other"),
            ]),
        ];
        let rows = self.analysis.further.fidelity.iter().map(|one| {
            let shares = [
                &one.line_pass,
                &one.word_pass,
                &one.combined,
                &one.asked,
                &one.english,
                &one.other,
            ];
            let shares = shares.map(|share| Cell::measure(share.as_ref(), Unit::Percent));
            let cells = [vec![Cell::text(&one.lang)], shares.to_vec()].concat();
            self.row(one.curve, Some(one.n), cells)
        });
        let caption = "In which language the answers are";
        table("language_fidelity", caption, columns.concat(), rows.collect())
    }

    fn extraction(&self) -> Table {
        let columns = [
            self.keys.columns(true),
            key(&[("lang", "Language")]),
            measure(&[
                ("extracted", "Extracted"),
                ("accuracy", "Accuracy"),
                ("of_extracted", "Accuracy of the extracted"),
            ]),
        ];
        let rows = self.analysis.further.extraction.iter().map(|one| {
            let shares = [Some(&one.extracted), Some(&one.accuracy), one.of_extracted.as_ref()];
            let shares = shares.map(|share| Cell::measure(share, Unit::Percent));
            self.row(
                one.curve,
                Some(one.n),
                [vec![Cell::text(&one.lang)], shares.to_vec()].concat(),
            )
        });
        let caption = "Extraction beside accuracy";
        table("extraction", caption, columns.concat(), rows.collect())
    }

    fn plateaus(&self) -> Table {
        let columns = [
            self.keys.columns(false),
            key(&[("of", "Of")]),
            measure(&[("levels_off_at", "Levels off at n"), ("level", "Level"), ("rise", "Rise")]),
            remark(&[("shape", "Shape"), ("note", "Note")]),
        ];
        let rows = self.analysis.further.plateaus.iter().map(|one| {
            let unit = self.unit(one.curve);
            let at = one.at.map_or(Cell::Empty, |value| Cell::Measure {
                value,
                interval: Some((
                    one.low.unwrap_or(f64::NEG_INFINITY),
                    one.high.unwrap_or(f64::INFINITY),
                )),
                unit: Unit::Raw,
                signed: false,
            });
            let cells = vec![
                Cell::text(&one.of),
                at,
                number(one.level, unit),
                number(one.rise, unit),
                Cell::text(shape(one.shape)),
                Cell::text(&one.note),
            ];
            self.row(one.curve, None, cells)
        });
        let caption = "Where more data stop helping";
        table("plateau", caption, columns.concat(), rows.collect())
    }

    fn following(&self) -> Table {
        let columns = [
            self.keys.columns(false),
            measure(&[("spearman", "Spearman's ρ")]),
            remark(&[("points", "n of points"), ("exact", "p is")]),
            remark(&TEST),
        ];
        let rows = self.analysis.further.following.iter().map(|one| {
            let mut cells = vec![
                Cell::number(one.correlation, Unit::Raw),
                Cell::Count(one.points as i64),
                Cell::text(if one.exact { "exact" } else { "from random permutations" }),
            ];
            cells.extend(tested(&one.test));
            self.row(one.curve, None, cells)
        });
        let caption = "Whether unseen languages follow the seen ones along n";
        table("seen_unseen_correlation", caption, columns.concat(), rows.collect())
    }

    fn gaps(&self) -> Table {
        let columns = [
            self.keys.columns(false),
            measure(&[
                ("gap_first", "Gap at the smallest n"),
                ("gap_last", "Gap at the largest n"),
                ("change", "Change of its trend"),
            ]),
            remark(&TEST),
            remark(&[
                ("margin", "Margin"),
                ("p_equivalence", "p (constant)"),
                ("shape", "The gap"),
                ("note", "Note"),
            ]),
        ];
        let rows = self.analysis.further.gaps.iter().map(|one| {
            let mut cells = [one.first, one.last].map(|gap| Cell::number(gap, one.unit)).to_vec();
            cells.extend(difference(Some(&one.change), one.unit));
            cells.push(Cell::number(one.margin, one.unit));
            cells.push(Cell::probability(one.equivalence.p));
            cells.push(Cell::text(match one.shape {
                GapShape::Constant => "stays, within the margin",
                GapShape::Grows => "grows",
                GapShape::Shrinks => "shrinks",
                GapShape::Undecided => "neither shown",
            }));
            cells.push(Cell::text(&one.note));
            self.row(one.curve, None, cells)
        });
        let caption = "Whether the gap between seen and unseen languages stays as it is";
        table("gap_constancy", caption, columns.concat(), rows.collect())
    }

    fn outliers(&self) -> Table {
        let columns = [
            self.keys.columns(true),
            key(&[("lang", "Language"), ("run", "One run alone")]),
            measure(&[("value", "Value"), ("expected", "Expected")]),
            remark(&[("z", "Robust SDs")]),
            remark(&TEST[..3]),
            remark(&[("runs", "Runs")]),
        ];
        let rows = self.analysis.further.outliers.iter().map(|one| {
            let unit = self.unit(one.curve);
            let mut cells = vec![
                Cell::text(&one.lang),
                one.run.as_ref().map_or(Cell::Empty, Cell::text),
                Cell::number(one.value, unit),
                Cell::number(one.expected, unit),
                Cell::number(one.z, Unit::Raw),
            ];
            cells.extend(tested(&one.test).into_iter().take(3));
            let runs = one.runs.join(", ");
            cells.push(if runs.is_empty() { Cell::Empty } else { Cell::Text(runs) });
            self.row(one.curve, Some(one.n), cells)
        });
        let caption = "Scores that do not fit their neighbours";
        table("outliers", caption, columns.concat(), rows.collect())
    }

    fn detectable(&self) -> Table {
        let columns = [
            self.keys.columns(true),
            key(&[("of", "Difference of")]),
            measure(&[
                ("observed", "Observed"),
                ("standard_error", "Standard error"),
                ("smallest", "Smallest detectable"),
            ]),
            remark(&[
                ("seeds", "Seeds"),
                ("items", "Items"),
                ("seeds_needed", "Seeds needed"),
                ("items_needed", "Items needed"),
                ("note", "Note"),
            ]),
        ];
        let line = |one: &Detectable| {
            let unit = self.unit(one.curve);
            let cells = vec![
                Cell::text(&one.of),
                number(one.observed, unit),
                Cell::number(one.standard_error, unit),
                Cell::number(one.smallest, unit),
                count(Some(one.seeds)),
                count(Some(one.items)),
                count(one.seeds_needed),
                count(one.items_needed),
                Cell::text(&one.note),
            ];
            self.row(one.curve, Some(one.n), cells)
        };
        let caption = "What these scores could have shown: differences from the baseline found four times in five at α = 0.05";
        let rows = self.analysis.further.detectable.iter().map(line).collect();
        table("detectable", caption, columns.concat(), rows)
    }
}

/// In words.
pub(crate) fn shape(shape: Shape) -> &'static str {
    match shape {
        Shape::LevelsOff => "levels off",
        Shape::StillRising => "still rising at the largest n",
        Shape::Flat => "no change with n",
        Shape::Falls => "falls",
        Shape::Undetermined => "undetermined",
    }
}
