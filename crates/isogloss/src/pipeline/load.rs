//! Reads a pipeline file, gives every section what the file says once for all (languages, tasks), makes
//! its paths absolute, and refuses what cannot be meant.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use artifact::bail_user;
use artifact::config::{expand_env, load_toml};
use hub::Address;

use super::{Model, Pipeline};

/// Reads and checks a pipeline file.
///
/// # Errors
/// A user error that names the file and the key.
pub fn load(path: &Path) -> Result<Pipeline> {
    let mut pipeline: Pipeline = load_toml(path)?;
    let absolute =
        std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    pipeline.base = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    pipeline.measures =
        [pipeline.generate.is_some(), pipeline.eval.is_some(), pipeline.judge.is_some()]
            .contains(&true)
            || pipeline.report.is_some();
    pipeline.resolve_paths()?;
    pipeline.fill_languages()?;
    pipeline.share_tasks();
    for model in &mut pipeline.models {
        name_model(model)?;
    }
    if let Err(error) = pipeline.check() {
        return Err(error.context(format!("{} is not a pipeline that can run", path.display())));
    }
    Ok(pipeline)
}

impl Pipeline {
    fn resolve_paths(&mut self) -> Result<()> {
        let base = self.base.clone();
        let models = self.models.iter_mut().filter_map(|model| model.path.as_mut());
        let tokenizer =
            self.tokenizer.iter_mut().filter_map(|tokenizer| tokenizer.added.path.as_mut());
        let export = self.export.iter_mut().map(|export| &mut export.model);
        let eval =
            self.eval.iter_mut().flat_map(|eval| eval.tasks.iter_mut().chain(&mut eval.mecab));
        let judge = self.judge.iter_mut().flat_map(|judge| {
            let judge = &mut judge.stage;
            [&mut judge.rating_prompt, &mut judge.pairwise_prompt, &mut judge.cache]
        });
        let tasks = self.prompts.tasks.iter_mut().chain(eval);
        for path in models.chain(tokenizer).chain(export).chain(tasks).chain(judge.flatten()) {
            *path = resolve(&base, path)?;
        }
        Ok(())
    }

    /// A section that names no languages, or is not there, works on those of `[languages]`.
    fn fill_languages(&mut self) -> Result<()> {
        for tag in self.languages.seen.iter_mut().chain(&mut self.languages.unseen) {
            *tag = language::canonical(tag).context("in [languages]")?;
        }
        let all = self.languages.all();
        let fill = |list: &mut Vec<String>, languages: &[String]| {
            if list.is_empty() {
                *list = languages.to_vec();
            }
        };
        fill(&mut self.ingest.languages, &all);
        fill(&mut self.prompts.languages, &all);
        if let Some(synth) = &mut self.synth {
            fill(&mut synth.added.languages, &all);
            for tag in &mut synth.added.languages {
                *tag = language::canonical(tag).context("in [synth] languages")?;
            }
            if !synth.added.languages.is_empty() {
                synth.stage.languages.clone_from(&synth.added.languages);
            }
        }
        fill(&mut self.eval.get_or_insert_default().languages, &all);
        if let Some(judge) = &mut self.judge {
            fill(&mut judge.stage.languages, &all);
        }
        if let Some(design) = &mut self.mix
            && design.language_sets.is_empty()
            && design.preset != Some(mix::Preset::StudyScript)
            && design.budget != Some(mix::Budget::Explicit)
        {
            fill(&mut design.languages, &self.languages.seen);
        }
        Ok(())
    }

    /// Task files are the same for prompts and scores; shots may stand in `[generate]`.
    fn share_tasks(&mut self) {
        if let Some(shots) = self.generate.as_ref().and_then(|generate| generate.added.shots) {
            self.prompts.shots = Some(shots);
        }
        let eval = self.eval.get_or_insert_default();
        match (self.prompts.tasks.is_empty(), eval.tasks.is_empty()) {
            (true, false) => self.prompts.tasks.clone_from(&eval.tasks),
            (false, true) => eval.tasks.clone_from(&self.prompts.tasks),
            _ => {}
        }
    }

    fn check(&self) -> Result<()> {
        let is_name =
            |text: &str| !text.is_empty() && !text.contains(['/', '\\']) && !text.starts_with('.');
        if !is_name(&self.name) {
            bail_user!("name = \"{}\": give a short name that can be a folder's", self.name);
        }
        if self.synth.is_none() && self.sources.is_empty() && self.ingest.sources.is_empty() {
            bail_user!("there is no data: add a [[source]], or [synth] to generate some");
        }
        if self.models.is_empty() {
            bail_user!(
                "there is no [[model]]: name a folder by path = \"…\", or a shape by init = {{ … }}"
            );
        }
        self.check_models(is_name)?;
        if let Some(judge) = &self.judge {
            judge.check(judge.added.baseline.is_some()).context("in [judge]")?;
            self.judge_settings(None).context("in [judge]")?;
        }
        self.check_side_by_side()?;
        self.check_seeds()?;
        self.check_design()
    }

    /// That adapters which train side by side are one process's.
    pub fn check_side_by_side(&self) -> Result<()> {
        match self.train.added.side_by_side {
            Some(runs @ 2..) if self.train.ranks.is_some_and(|ranks| ranks > 1) => bail_user!(
                "[train] side_by_side is {runs}, and ranks is {}: adapters that train side by side share the passes of \
                 one process, and runs on several ranks go one after the other; take one of the two out",
                self.train.ranks.unwrap_or(1)
            ),
            Some(0) => bail_user!("[train] side_by_side is 0; it must be at least 1"),
            Some(2..) if self.train.lora.is_none() => bail_user!(
                "[train] side_by_side is for runs that train an adapter beside the same weights: add [train.lora], or \
                 take it out"
            ),
            _ => Ok(()),
        }
    }

    fn check_design(&self) -> Result<()> {
        let points = self.mix.as_ref().map_or(Ok(Vec::new()), mix::expand)?;
        let runs = points.len().max(1) * self.models.len() * self.train_seeds().len();
        if self.export.is_some() && runs != 1 {
            bail_user!("[export] is for a pipeline with one run; this one has {runs}");
        }
        let single = points.iter().filter(|point| {
            point.factors.setting.as_deref() == Some(mix::Setting::SingleTask.name())
        });
        let asks_others = self.generate.as_ref().is_some_and(|generate| !generate.tasks.is_empty());
        if asks_others && single.map(mix::Point::tasks).collect::<BTreeSet<_>>().len() > 1 {
            bail_user!(
                "[generate] tasks, with single-task mixtures of several tasks: scores of one task would come from \
                 models of different tasks under the same factors; leave `tasks` out, and each model is asked its own"
            );
        }
        Ok(())
    }

    fn check_models(&self, is_name: impl Fn(&str) -> bool) -> Result<()> {
        let mut names = BTreeSet::new();
        for model in &self.models {
            if !is_name(&model.name) {
                bail_user!(
                    "[[model]] name = \"{}\": give a short name that can be a folder's",
                    model.name
                );
            }
            if !names.insert(&model.name) {
                bail_user!("two [[model]] tables are called {}; give each a `name`", model.name);
            }
            let folder = model.path.as_ref().filter(|folder| !hub::is_address(folder));
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                bail_user!("[[model]] {}: there is no folder {}", model.name, folder.display());
            }
            if model.init.is_some() && self.tokenizer.is_none() {
                bail_user!(
                    "model {} has random weights and so no tokenizer: add [tokenizer], with vocab_size to train one \
                     or path to use one",
                    model.name
                );
            }
        }
        Ok(())
    }

    fn check_seeds(&self) -> Result<()> {
        let seeds = &self.train.added.seeds;
        if !seeds.is_empty() && self.train.seed.is_some() {
            bail_user!("[train] has both `seed` and `seeds`; keep one of them");
        }
        if let Some(twice) = seeds.iter().enumerate().find(|(at, seed)| seeds[..*at].contains(seed))
        {
            bail_user!("[train] seeds lists {} twice", twice.1);
        }
        self.train_config(self.train_seeds()[0]).resolve().context("in [train]")?;
        self.generate_config(&[]).check().context("in [generate]")
    }
}

/// Absolute, with variables filled in; an address of the Hub stays.
fn resolve(base: &Path, path: &Path) -> Result<PathBuf> {
    let text = expand_env(path.to_str().context("a path that is not UTF-8")?)?;
    Ok(if hub::is_address(&text) { text.into() } else { base.join(text) })
}

fn name_model(model: &mut Model) -> Result<()> {
    let name = match (&model.path, &model.init) {
        (Some(path), None) => {
            if hub::is_address(path) {
                Address::of_model(&path.to_string_lossy())?.name().to_owned()
            } else {
                path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
        }
        (None, Some(_)) => "random".to_owned(),
        _ => bail_user!(
            "[[model]] needs either `path` (a folder, or hf://owner/name) or `init` (the shape of random weights)"
        ),
    };
    if model.name.is_empty() {
        model.name = name;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_works_on_the_pipelines_languages() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.toml");
        let text = "name = \"p\"\n[languages]\nseen = [\"en\", \"zh\"]\nunseen = [\"French\"]\n\
                    [synth]\nlanguages = [\"zh\"]\n[tokenizer]\nvocab_size = 400\n\
                    [[model]]\nname = \"m\"\ninit = { hidden_size = 16, num_hidden_layers = 1, num_attention_heads = 2 }\n";
        std::fs::write(&file, text).unwrap();
        let pipeline = load(&file).unwrap();
        let all = ["en", "zh-Hans", "fr"];
        assert_eq!(pipeline.ingest.languages, all);
        assert_eq!(pipeline.eval.unwrap().languages, all, "also where there is no [eval]");
        assert_eq!(pipeline.synth.unwrap().languages, ["zh-Hans"]);
    }
}
