//! How a plan stands against the store: what is there, what is stale and why, what was interrupted.
//! In: a [`Runner`]. Out: a [`State`] for each step, and a table that groups steps which stand alike.

use std::fmt;

use anyhow::Result;
use artifact::store::{Difference, Part, Recipe};
use artifact::text::{TextTable, shorten};

use crate::plan::{Plan, Step};
use crate::runner::Runner;
use crate::stages;

/// How one step stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Its output is in the store.
    Cached,
    /// It was made from other settings or inputs.
    Stale(Vec<Difference>),
    /// It was stopped at this optimiser step and goes on from there.
    Interrupted(u64),
    /// It reads what that step has yet to make; its own settings may have changed, too.
    Waits(String, Vec<Difference>),
    /// It was never made.
    Missing,
}

impl State {
    /// It in a word.
    pub fn word(&self) -> &'static str {
        match self {
            State::Cached => "cached",
            State::Stale(_) => "stale",
            State::Interrupted(_) => "interrupted",
            State::Waits(..) => "waits",
            State::Missing => "missing",
        }
    }

    fn why(&self) -> Vec<String> {
        match self {
            State::Cached => Vec::new(),
            State::Stale(differences) => differences.iter().map(explain).collect(),
            State::Interrupted(step) => vec![format!("goes on from step {step}")],
            State::Waits(on, differences) => {
                let on = format!("for {on}");
                std::iter::once(on).chain(differences.iter().map(explain)).collect()
            }
            State::Missing => vec!["not made yet".to_owned()],
        }
    }
}

/// A difference for a person: the setting or input, its old and its new value.
fn explain(difference: &Difference) -> String {
    let show = |value: &Option<String>| match value {
        None => "not set".to_owned(),
        Some(value) if difference.name.starts_with("input.") => value.chars().take(8).collect(),
        Some(value) => shorten(value, 48),
    };
    let name = match difference.name.split_once('.') {
        Some(("config", name)) => format!("setting {name}"),
        Some(("input", name)) => format!("input {name}"),
        _ => difference.name.clone(),
    };
    format!("{name}: {} → {}", show(&difference.old), show(&difference.new))
}

/// How every step of the plan stands.
pub fn states(runner: &Runner<'_>) -> Result<Vec<State>> {
    let mut states: Vec<State> = Vec::new();
    for (index, step) in runner.plan.steps.iter().enumerate() {
        let waits_on = step.needs.iter().find(|&&need| states[need] != State::Cached);
        let state = match waits_on {
            Some(&need) => waits(runner, step, &runner.plan.steps[need])?,
            None => stands(runner, index)?,
        };
        states.push(state);
    }
    Ok(states)
}

/// A step whose inputs are all there.
fn stands(runner: &Runner<'_>, step: usize) -> Result<State> {
    if runner.find(step)?.is_some() {
        return Ok(State::Cached);
    }
    let Some((_, recipe)) = runner.resolve(step)? else { return Ok(State::Missing) };
    if let Some(at) = runner.interrupted_at(&recipe) {
        return Ok(State::Interrupted(at));
    }
    let last = last_parts(runner, &runner.plan.steps[step])?;
    Ok(last
        .map_or(State::Missing, |last| State::Stale(Recipe::differences(&last, &recipe.parts()))))
}

/// A step that needs another one done first. Only its settings can be compared yet.
fn waits(runner: &Runner<'_>, step: &Step, on: &Step) -> Result<State> {
    let recipe = Recipe {
        stage: step.stage.name(),
        version: step.stage.version(),
        config: stages::settings(runner.plan, step)?,
        inputs: Vec::new(),
    };
    let is_setting = |part: &Part| !part.name.starts_with("input.");
    let differences = last_parts(runner, step)?.map_or(Vec::new(), |mut last| {
        last.retain(is_setting);
        Recipe::differences(&last, &recipe.parts())
    });
    Ok(State::Waits(on.stage.name().to_owned(), differences))
}

fn last_parts(runner: &Runner<'_>, step: &Step) -> Result<Option<Vec<Part>>> {
    let last = runner.store.last(&runner.plan.pipeline.name, &step.name)?;
    Ok(last.map(|manifest| manifest.parts))
}

/// The states of a plan as a table.
pub struct Overview<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The state of each step.
    pub states: &'a [State],
}

impl Overview<'_> {
    /// Steps of one stage that stand alike, together: the stage's first group first.
    fn groups(&self) -> Vec<(Vec<&Step>, &State)> {
        let mut groups: Vec<(Vec<&Step>, &State)> = Vec::new();
        for (step, state) in self.plan.steps.iter().zip(self.states) {
            match groups
                .iter_mut()
                .find(|(steps, known)| steps[0].stage == step.stage && *known == state)
            {
                Some((steps, _)) => steps.push(step),
                None => groups.push((vec![step], state)),
            }
        }
        groups.sort_by_key(|(steps, _)| steps[0].stage);
        groups
    }

    /// Which runs a group is about: their number, and their ids where there are few.
    fn runs(&self, steps: &[&Step]) -> String {
        let runs: Vec<&str> =
            steps.iter().filter_map(|step| Some(self.plan.runs[step.run?].id.as_str())).collect();
        match runs.len() {
            0 => String::new(),
            1 => runs[0].to_owned(),
            count if count == self.plan.runs.len() => format!("all {count}"),
            count => format!("{count} of {}: {}, …", self.plan.runs.len(), runs[0]),
        }
    }
}

impl fmt::Display for Overview<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = TextTable::new(&["stage", "runs", "state", "why"]);
        for (steps, state) in self.groups() {
            let mut why = state.why().into_iter();
            let cells = [
                steps[0].stage.name(),
                &self.runs(&steps),
                state.word(),
                &why.next().unwrap_or_default(),
            ];
            table.row(cells.map(str::to_owned).to_vec());
            for more in why {
                table.row(vec![String::new(), String::new(), String::new(), more]);
            }
        }
        write!(f, "{table}")?;
        let to_do = self.states.iter().filter(|&state| *state != State::Cached).count();
        match to_do {
            0 => writeln!(f, "everything is in the store"),
            _ => writeln!(f, "{to_do} of {} steps to do", self.states.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(name: &str, old: &str, new: &str) -> Difference {
        Difference { name: name.into(), old: Some(old.into()), new: Some(new.into()) }
    }

    #[test]
    fn a_setting_shows_its_values_and_an_input_its_short_hashes() {
        let setting = difference("config.train.epochs", "2", "3");
        assert_eq!(explain(&setting), "setting train.epochs: 2 → 3");
        let input = difference("input.source0/a.tsv", &"a1".repeat(32), &"b2".repeat(32));
        assert_eq!(explain(&input), "input source0/a.tsv: a1a1a1a1 → b2b2b2b2");
        let added = Difference { name: "config.stop".into(), old: None, new: Some("x".into()) };
        assert_eq!(explain(&added), "setting stop: not set → x");
    }
}
