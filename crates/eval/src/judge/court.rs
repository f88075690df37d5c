//! From answers to requests, and from replies to scores: which requests a batch of generations needs, what can be settled
//! without one, and what the replies come to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use artifact::polars::prelude::DataFrame;
use artifact::text::shorten;
use artifact::{Context, bail_user};
use language::Detector;
use serde_json::{Value as Json, json};

use super::Config;
use super::ask::Answer;
use super::cache::{Cache, Request};
use super::prompt::{Prompt, Shown};
use super::rows::{Baseline, Texts, inputs, naming};
use super::summary::{Estimate, Summary};
use super::verdict::{self, Preference};
use crate::input::{Input, Reading};
use crate::metric::exact_match::Marks;
use crate::metric::{Item, Tools};
use crate::score::{self, Ids, ScoreRow, Survey};

/// How much of a reply the column `detail` keeps, in columns of text.
const KEPT: usize = 300;

/// All that judging needs to know.
pub(super) struct Court<'a> {
    config: &'a Config,
    naming: score::Config,
    inputs: Vec<Input<'a>>,
    survey: Survey,
    tools: Tools,
    rating: Option<Prompt>,
    pairwise: Option<(Prompt, Baseline)>,
    /// By metric.
    signatures: BTreeMap<&'static str, String>,
    /// Replies that are there already.
    pub cache: Arc<Cache>,
}

/// What has to be asked for a batch.
#[derive(Default)]
pub(super) struct Docket {
    /// Each once.
    pub requests: Vec<Request>,
    known: HashMap<String, usize>,
    cases: Vec<Case>,
}

/// One answer before the judge.
struct Case {
    /// Its row in the batch.
    at: usize,
    rating: Option<Plea>,
    pair: Option<Plea>,
}

/// How a score comes about: by requests (indices into the docket), or without any.
enum Plea {
    Rating(usize),
    Pair(usize, usize),
    Settled(Outcome),
}

/// What a score comes to.
#[derive(Clone)]
struct Outcome {
    value: Option<f64>,
    detail: Option<String>,
}

/// One score.
pub(super) struct Score {
    at: usize,
    metric: &'static str,
    value: Outcome,
}

impl<'a> Court<'a> {
    /// Reads what does not depend on the batch: languages, prompts, the baseline's answers.
    pub fn new(
        config: &'a Config,
        reading: &'a Reading,
        generations: &[PathBuf],
        against: &[PathBuf],
        ctx: &Context,
    ) -> Result<Court<'a>> {
        let wants_baseline = config.baseline.is_some() || !against.is_empty();
        config.check(wants_baseline)?;
        let judged = inputs(generations, reading)?;
        let naming = naming(config);
        let survey = Survey::of(&judged, &naming, ctx)?;
        let languages = match &config.languages[..] {
            [] => survey.languages(),
            languages => languages.to_vec(),
        };
        let tools = Tools::from(Detector::new(&languages)?);
        let language = config.language_check.metric().signature("", &tools);
        let mut signatures = BTreeMap::from([("judge_pass", language.clone())]);
        let mut rating = None;
        if config.rating {
            let prompt = Prompt::rating(config)?;
            let signature = config.signature(&prompt);
            let aware = format!("{signature}|wrong-language:1|{language}");
            signatures.extend([("judge_rating", signature), ("judge_switch_aware", aware)]);
            rating = Some(prompt);
        }
        let mut pairwise = None;
        if wants_baseline {
            let others = inputs(against, reading)?;
            let others = if against.is_empty() { &judged } else { &others };
            let baseline = Baseline::read(config.baseline.as_deref(), others, config, ctx)?;
            let prompt = Prompt::pairwise(config)?;
            let signature = config.signature(&prompt);
            let signature = format!("{signature}|orders:2|baseline:{}", baseline.run_id);
            signatures.insert("win_rate", signature);
            pairwise = Some((prompt, baseline));
        }
        let cache = Arc::new(Cache::open(config.cache.as_deref())?);
        let inputs = judged;
        Ok(Court { config, naming, inputs, survey, tools, rating, pairwise, signatures, cache })
    }

    /// Calls `work` for every batch with its ids.
    pub fn each_batch(
        &self,
        ctx: &Context,
        mut work: impl FnMut(&Input, &DataFrame, &[Ids]) -> Result<()>,
    ) -> Result<()> {
        for input in &self.inputs {
            let mut row = 0;
            for batch in input.batches()? {
                ctx.check()?;
                let batch = batch?;
                work(input, &batch, &self.survey.ids(&batch, input, &self.naming, row)?)?;
                row += batch.height();
            }
        }
        Ok(())
    }

    /// The cases of a batch and the different requests that they need.
    pub fn docket(&self, texts: &Texts, ids: &[Ids], path: &Path) -> Result<Docket> {
        let mut docket = Docket::default();
        for (at, id) in ids.iter().enumerate() {
            if !self.config.tasks.is_empty() && !self.config.tasks.contains(&id.task) {
                continue;
            }
            let Some(question) = texts.question(at) else {
                bail_user!(
                    "{}: example {}: there is no `prompt`, without which an answer cannot be judged; `map` names the column \
                     if it is called otherwise",
                    path.display(),
                    id.example_id
                );
            };
            let shown = Shown {
                lang: &id.lang,
                task: &id.task,
                question,
                answer: texts.answer(at),
                other: None,
                reference: texts.reference(at),
            };
            let rating = match &self.rating {
                None => None,
                Some(_) if shown.answer.is_empty() => Some(settled(1.0, "empty answer: 1")),
                Some(prompt) => Some(Plea::Rating(docket.add(self.request(prompt, &shown)?))),
            };
            let pair = match &self.pairwise {
                Some((prompt, baseline)) if baseline.run_id != id.run_id => {
                    Some(self.pair(prompt, &shown, baseline.answer(id), &mut docket)?)
                }
                _ => None,
            };
            docket.cases.push(Case { at, rating, pair });
        }
        Ok(docket)
    }

    /// A comparison, in both orders. Where an answer is empty or both are the same, there is nothing to ask.
    fn pair(
        &self,
        prompt: &Prompt,
        shown: &Shown,
        other: Option<&str>,
        docket: &mut Docket,
    ) -> Result<Plea> {
        let Some(other) = other else {
            let detail = Some("the baseline has no answer to this example".to_owned());
            return Ok(Plea::Settled(Outcome { value: None, detail }));
        };
        Ok(match (shown.answer, other) {
            (own, other) if own == other => settled(0.5, "tie: the answers are the same"),
            ("", _) => settled(0.0, "loss: the answer is empty"),
            (_, "") => settled(1.0, "win: the baseline's answer is empty"),
            (own, other) => {
                let ordered = |answer, other| Shown { answer, other: Some(other), ..*shown };
                let first = docket.add(self.request(prompt, &ordered(own, other))?);
                let second = docket.add(self.request(prompt, &ordered(other, own))?);
                Plea::Pair(first, second)
            }
        })
    }

    fn request(&self, prompt: &Prompt, shown: &Shown) -> Result<Request> {
        let mut body = json!({"model": self.config.model, "messages": prompt.messages(shown)?});
        for (name, value) in &self.config.parameters {
            body[name] = value.clone();
        }
        Ok(Request::new(&body))
    }

    /// How many requests there are, how many are in the cache, and about what the others cost.
    pub fn estimate(&self, ctx: &Context) -> Result<Estimate> {
        let mut seen: HashSet<String> = HashSet::new();
        let mut estimate = Estimate::default();
        let (mut replies, mut back) = (0, 0);
        self.each_batch(ctx, |input, batch, ids| {
            let docket = self.docket(&Texts::of(batch)?, ids, input.path())?;
            for request in docket.requests {
                if !seen.insert(request.key.clone()) {
                    continue;
                }
                estimate.requests += 1;
                match self.cache.get(&request) {
                    Some(reply) => {
                        estimate.cached += 1;
                        replies += u64::from(reply.completion_tokens.is_some());
                        back += reply.completion_tokens.unwrap_or(0);
                    }
                    None => estimate.prompt_tokens += about_tokens(&request.body),
                }
            }
            Ok(())
        })?;
        let to_ask = estimate.requests - estimate.cached;
        let most = ["max_tokens", "max_completion_tokens"]
            .iter()
            .find_map(|name| self.config.parameters.get(*name).and_then(Json::as_u64));
        estimate.at_most = replies == 0;
        estimate.completion_tokens = match replies {
            0 => most.map(|most| most * to_ask),
            replies => Some(back * to_ask / replies),
        };
        estimate.cost = self
            .config
            .price
            .and_then(|price| Some(price.of(estimate.prompt_tokens, estimate.completion_tokens?)));
        Ok(estimate)
    }

    /// The scores of a batch, those of an answer together.
    pub fn scores(
        &self,
        docket: &Docket,
        answers: &[Answer],
        texts: &Texts,
        ids: &[Ids],
        summary: &mut Summary,
    ) -> Vec<Score> {
        let mut scores = Vec::with_capacity(docket.cases.len() * 4);
        for case in &docket.cases {
            let (at, id) = (case.at, &ids[case.at]);
            if let Some(plea) = &case.rating {
                let rating = self.value(plea, answers, summary);
                let pass = self.pass(texts.answer(at), &id.lang);
                let switch_aware = switch_aware(&rating, &pass);
                for (metric, value) in [
                    ("judge_rating", rating),
                    ("judge_pass", pass),
                    ("judge_switch_aware", switch_aware),
                ] {
                    scores.push(Score { at, metric, value });
                }
            }
            if let Some(plea) = &case.pair {
                let value = self.value(plea, answers, summary);
                scores.push(Score { at, metric: "win_rate", value });
            }
        }
        for Score { at, metric, value } in &scores {
            let id = &ids[*at];
            summary.score(&id.task, metric, &id.lang, value.value);
            // The switch-aware rating lacks what the rating lacks; a language that cannot be told is no fault.
            if value.value.is_none() && ["judge_rating", "win_rate"].contains(metric) {
                let reason = value.detail.as_deref().unwrap_or_default();
                summary.without_value(reason, &id.example_id);
            }
        }
        scores
    }

    /// The scores as rows of the output.
    pub fn frame<'s>(
        &'s self,
        batch: &DataFrame,
        ids: &[Ids],
        scores: &'s [Score],
        path: &Path,
    ) -> Result<DataFrame> {
        let row = |score: &'s Score| ScoreRow {
            at: score.at,
            metric: score.metric,
            value: score.value.value,
            detail: score.value.detail.as_deref(),
            signature: self.signatures.get(score.metric).map_or("", String::as_str),
        };
        let rows: Vec<ScoreRow> = scores.iter().map(row).collect();
        self.survey.frame(batch, ids, &rows, path)
    }

    /// The value of a rating or of a comparison.
    fn value(&self, plea: &Plea, answers: &[Answer], summary: &mut Summary) -> Outcome {
        let none = |detail: String| Outcome { value: None, detail: Some(detail) };
        match plea {
            Plea::Settled(outcome) => outcome.clone(),
            Plea::Rating(request) => {
                let marks = self.rating.as_ref().map(|prompt| &prompt.verdict);
                match read(&answers[*request], marks, verdict::rating, summary) {
                    Ok((rating, said)) => {
                        Outcome { value: Some(f64::from(rating)), detail: Some(said) }
                    }
                    Err(why) => none(why),
                }
            }
            Plea::Pair(first, second) => {
                let marks = self.pairwise.as_ref().map(|(prompt, _)| &prompt.verdict);
                let first = read(&answers[*first], marks, verdict::preference, summary);
                let second = read(&answers[*second], marks, verdict::preference, summary);
                match (first, second) {
                    (Ok((first, _)), Ok((second, _))) => win(first, second, summary),
                    (Err(why), _) => none(format!("shown first: {why}")),
                    (_, Err(why)) => none(format!("shown second: {why}")),
                }
            }
        }
    }

    /// Whether an answer is in its language.
    fn pass(&self, answer: &str, lang: &str) -> Outcome {
        let item = Item { lang, generation: answer, reference: None, marks: &Marks::default() };
        let found = self.config.language_check.metric().score(&item, &self.tools);
        Outcome { value: found.value, detail: found.detail }
    }
}

impl Docket {
    /// The place of a request, which stands there once.
    fn add(&mut self, request: Request) -> usize {
        let next = self.requests.len();
        let at = *self.known.entry(request.key.clone()).or_insert(next);
        if at == next {
            self.requests.push(request);
        }
        at
    }
}

fn settled(value: f64, detail: &str) -> Plea {
    Plea::Settled(Outcome { value: Some(value), detail: Some(detail.to_owned()) })
}

/// The verdict of an answer with what the judge said, or why there is none.
fn read<T>(
    answer: &Answer,
    marks: Option<&[String; 2]>,
    verdict: fn(&str, &[String; 2]) -> Result<T, String>,
    summary: &mut Summary,
) -> Result<(T, String), String> {
    let (reply, marks) = match (answer, marks) {
        (Ok(reply), Some(marks)) => (reply, marks),
        (Err(why), _) => return Err(format!("failed: {why}")),
        (_, None) => return Err("failed: there is no prompt".to_owned()),
    };
    let said = verdict::without_thoughts(&reply.content).unwrap_or_default();
    let found = verdict(&reply.content, marks);
    found.map(|verdict| (verdict, shorten(said.trim(), KEPT))).map_err(|why| {
        summary.malformed += 1;
        let cut = match reply.finish_reason.as_deref() {
            Some("length") => ", and it was cut at the most tokens that `parameters` allow",
            _ => "",
        };
        format!("malformed: {why}{cut}")
    })
}

/// What two orders come to: a win or a loss must hold in both.
fn win(first: Preference, second: Preference, summary: &mut Summary) -> Outcome {
    use Preference::{A, B, Tie};
    let name = |preference: Preference, own: Preference| match preference {
        Tie => "tie",
        preference if preference == own => "win",
        _ => "loss",
    };
    // The answer is A where it is shown first and B where it is shown second.
    let (shown_first, shown_second) = (name(first, A), name(second, B));
    summary.pairs += 1;
    summary.flips += u64::from(shown_first != shown_second);
    summary.first_preferred +=
        [first, second].iter().filter(|&&preferred| preferred == A).count() as u64;
    let (value, detail) = match (shown_first, shown_second) {
        ("win", "win") => (1.0, "win".to_owned()),
        ("loss", "loss") => (0.0, "loss".to_owned()),
        ("tie", "tie") => (0.5, "tie".to_owned()),
        (first, second) => {
            (0.5, format!("tie: {first} when shown first, {second} when shown second"))
        }
    };
    Outcome { value: Some(value), detail: Some(detail) }
}

/// 1 where the answer is in another language, else the rating; where the language cannot be told, the rating.
fn switch_aware(rating: &Outcome, pass: &Outcome) -> Outcome {
    if pass.value == Some(0.0) {
        let found = pass.detail.as_deref().unwrap_or_default();
        return Outcome { value: Some(1.0), detail: Some(format!("wrong language ({found}): 1")) };
    }
    let unknown = pass.value.is_none() && rating.value.is_some();
    let detail = if unknown { pass.detail.clone() } else { rating.detail.clone() };
    Outcome { value: rating.value, detail }
}

/// About how many tokens a text has: a word of four letters in ASCII, a character anywhere else.
fn about_tokens(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count();
    let other = text.chars().filter(|c| !c.is_ascii()).count();
    (ascii / 4 + other) as u64
}
