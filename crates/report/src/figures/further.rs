//! The further analyses as figures. What has no drawing of its own (run-to-run noise, detectable
//! differences, the gap's constancy) stands on the page as its table.

mod between;
mod within;

use super::{Figure, Gallery, Numbers, Theme};
use crate::analyse::{Analysis, Curve};
use crate::further::About;
use crate::words;

/// Draws what was found; an empty list draws nothing.
pub(super) fn draw(analysis: &Analysis, gallery: &mut Gallery) {
    within::plateaus(analysis, gallery);
    between::matrices(analysis, gallery);
    between::inclusions(analysis, gallery);
    between::panels(analysis, gallery);
    within::pareto(analysis, gallery);
    within::fidelity(analysis, gallery);
    within::extraction(analysis, gallery);
    within::variance(analysis, gallery);
    within::outliers(analysis, gallery);
}

/// A figure about a task, metric, model and setting, to be drawn.
fn figure(
    about: &About,
    theme: Theme,
    word: &str,
    title: String,
    caption: String,
    numbers: Numbers,
) -> Figure {
    Figure {
        id: format!("{} {} {word} {} {}", about.task, about.metric, about.model, about.setting),
        title,
        caption,
        svg: String::new(),
        theme,
        task: about.task.clone(),
        metric: about.metric.clone(),
        headline: about.headline,
        models: Some(about.model.clone()).into_iter().filter(|name| !name.is_empty()).collect(),
        numbers,
        folded: false,
    }
}

/// What a curve is about.
fn about(curve: &Curve) -> About {
    About {
        task: curve.task.clone(),
        metric: curve.metric.clone(),
        model: String::new(),
        setting: String::new(),
        headline: curve.headline,
    }
}

/// The keys by which a table's rows about something are found.
fn keys(about: &About) -> Vec<(&'static str, &str)> {
    let all = [
        ("task", about.task.as_str()),
        ("metric", &about.metric),
        ("model", &about.model),
        ("setting", &about.setting),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// `aya-7b, single-task`, in brackets, where there is anything to tell.
fn suffix(about: &About) -> String {
    let parts = [&about.model, &about.setting].map(String::as_str);
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

/// Names of curves that stand side by side, by place among all.
fn names(analysis: &Analysis, curves: &[usize]) -> Vec<String> {
    words::short_names(&curves.iter().map(|&at| &analysis.curves[at].series).collect::<Vec<_>>())
}

/// The distinct values in the order of their first appearance.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut list = Vec::new();
    for value in values {
        if !list.contains(&value) {
            list.push(value);
        }
    }
    list
}
