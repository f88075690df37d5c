//! Whole models: a step of each family against the processor's engine, with all weights trained and
//! with an adapter; repeats bit for bit; decoding; a run of the trainer, interrupted and resumed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use artifact::example::mixture_to_frame;
use artifact::schema::MIXTURE;
use artifact::{Context, Example, Message, MixtureRow};
use serde_json::{Value, json};

use super::Lab;
use crate::config::{BaseModel, TrainConfig, TrainData};
use crate::cuda::Cuda;
use crate::init::InitConfig;
use crate::model::adapter::{Lora, Target};
use crate::model::{
    Base, Batch, Decoder, Gradients, KvCache, Model, ModelConfig, Recompute, Stand,
};
use crate::ops::sample::Choice;
use crate::ops::{Cpu, Kind, Nf4};
use crate::optimizer::AdamW;
use crate::trainer;

/// A model's losses in bf16 beside those in f32.
const LOSSES: f64 = 1e-2;
/// Its gradients, which have come through all layers.
const GRADIENTS: f64 = 6e-2;

macro_rules! families {
    ($($name:literal),*) => {
        /// The configs that the engine is held to transformers with, by family.
        const FAMILIES: &[(&str, &str)] = &[$((
            $name,
            include_str!(concat!("../../../tests/fixtures/engine/", $name, "/config.json")),
        )),*];
    };
}
families!(
    "llama",
    "llama3",
    "llama_tied",
    "llama_yarn",
    "mistral",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "cohere",
    "cohere_qk_norm",
    "cohere2",
    "gemma2",
    "gemma3"
);

/// A family's config with sizes that the kernels take: the fixtures' heads are too narrow.
fn config(lab: &Lab<'_>, name: &str) -> Result<ModelConfig> {
    let text = FAMILIES.iter().find(|family| family.0 == name).context("a family")?.1;
    let mut fields: Value = serde_json::from_str(text)?;
    let (hidden, head, vocabulary) = lab.pick((64, 16, 61), (512, 128, 1009));
    let sizes = [
        ("hidden_size", json!(hidden)),
        ("head_dim", json!(head)),
        ("intermediate_size", json!(hidden * 3 / 2)),
        ("vocab_size", json!(vocabulary)),
        ("max_position_embeddings", json!(1024)),
        // Weights of a size that leaves the stream's scale alone.
        ("initializer_range", json!(1.0 / f64::from(hidden).sqrt())),
    ];
    for (key, value) in sizes {
        fields[key] = value;
    }
    // A layer fewer is enough for the emulation; both kinds of layer stay.
    if lab.size == super::Size::Small {
        fields["num_hidden_layers"] = json!(2);
        if let Some(types) = fields["layer_types"].as_array_mut() {
            types.truncate(2);
        }
    }
    ModelConfig::parse(&fields.to_string(), Path::new(name))
}

/// Two documents, of whose tokens two thirds count.
fn batch(lab: &Lab<'_>, config: &ModelConfig) -> Batch {
    let (rows, vocabulary) = (lab.pick(36, 700), config.vocab_size as u32);
    let target = |i: u32| if i.is_multiple_of(3) { -1 } else { ((i * 53 + 7) % vocabulary) as i32 };
    Batch {
        tokens: (0..rows).map(|i| (i * 37 + 11) % vocabulary).collect(),
        targets: (0..rows).map(target).collect(),
        documents: vec![0, rows * 7 / 9, rows],
    }
}

/// A step's losses and gradients, and the losses after the optimiser's, on both engines.
fn compare(
    lab: &mut Lab<'_>,
    name: &str,
    plain: &mut Model,
    model: &mut Decoder<Cuda>,
) -> Result<()> {
    let batch = batch(lab, plain.config());
    let (mut dplain, mut dmodel) = (Gradients::zeros(plain), Gradients::zeros(model));
    let expected = plain.forward_backward(&batch, 0.01, &mut dplain)?;
    let found = model.forward_backward(&batch, 0.01, &mut dmodel)?;
    lab.near_values(format!("{name}: losses"), &found, &expected, LOSSES);
    let mut worst = (0.0, "none".to_owned());
    for ((tensor, f), (_, e)) in dmodel.named().into_iter().zip(dplain.named()) {
        // A bias of the keys moves all scores of a query alike: its gradient is rounding. An
        // adapter's A has no gradient while its B is zero.
        if tensor.ends_with("k_proj.bias") || e.iter().all(|&x| x == 0.0) {
            continue;
        }
        let error = super::error(&f, &e);
        if error.is_nan() || error > worst.0 {
            worst = (error, tensor);
        }
    }
    lab.tell(format!("{name}: gradients, the worst {}", worst.1), worst.0, GRADIENTS, None);
    let (mut a, mut b) = (AdamW::new(plain), AdamW::new(model));
    for _ in 0..if name == "qwen3" { 1 } else { lab.pick(0, 3) } {
        a.step(plain, &dplain, 1e-3);
        b.step(model, &dmodel, 1e-3);
        dplain.clear();
        dmodel.clear();
        let expected: f32 = plain.forward_backward(&batch, 0.01, &mut dplain)?.iter().sum();
        let found: f32 = model.forward_backward(&batch, 0.01, &mut dmodel)?.iter().sum();
        lab.near_values(format!("{name}: loss after a step"), &[found], &[expected], LOSSES);
    }
    Ok(())
}

/// A step of every family.
pub(super) fn families(lab: &mut Lab<'_>) -> Result<()> {
    for (name, _) in FAMILIES {
        let mut plain = Model::random(config(lab, name)?, lab.seed);
        let mut model = plain.copy_to(lab.ops.clone());
        compare(lab, name, &mut plain, &mut model).with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

/// A step of an adapter beside frozen weights, with magnitudes and dropout too.
pub(super) fn adapters(lab: &mut Lab<'_>) -> Result<()> {
    let (all, some) = (Target::ALL.to_vec(), vec![Target::QProj, Target::VProj]);
    let (more, packed) = ([&some[..], &[Target::DownProj]].concat(), Nf4 { double_quant: true });
    for (name, targets, dora, dropout, stand) in [
        ("qwen3", all.clone(), false, 0.0, Stand::from(Kind::Weight)),
        ("gemma2", some, false, 0.25, Kind::Weight.into()),
        ("gemma2", more.clone(), true, 0.0, Kind::Weight.into()),
        ("qwen3", all, true, 0.25, Kind::Weight.into()),
        ("gemma2", more, true, 0.0, packed.into()),
    ] {
        let mut plain = Model::random(config(lab, name)?, lab.seed).copy_as(Cpu, stand);
        let mut model = plain.copy_to(lab.ops.clone());
        let lora = Lora { dora, dropout, ..Lora::new(8, 16.0, targets) };
        plain.attach(lora.clone(), Base::default(), 5);
        model.attach(lora, Base::default(), 5);
        compare(lab, name, &mut plain, &mut model).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Two steps, twice: the same bits.
pub(super) fn repeats(lab: &mut Lab<'_>) -> Result<()> {
    for name in ["qwen3", "gemma2"] {
        let config = config(lab, name)?;
        let batch = batch(lab, &config);
        let steps = |lab: &Lab<'_>| -> Result<Vec<f32>> {
            let mut model = Decoder::random_on(lab.ops.clone(), config.clone(), 7);
            let (mut gradients, mut optimizer) = (Gradients::zeros(&model), AdamW::new(&model));
            let mut all = model.forward_backward(&batch, 0.01, &mut gradients)?;
            optimizer.step(&mut model, &gradients, 1e-3);
            gradients.clear();
            all.extend(model.forward_backward(&batch, 0.01, &mut gradients)?);
            all.extend(gradients.named().into_iter().flat_map(|(_, values)| values));
            Ok(all)
        };
        let (once, again) = (steps(lab)?, steps(lab)?);
        lab.same(format!("{name}: {} values of two steps", once.len()), &again, &once);
    }
    Ok(())
}

/// Decoding token by token against a pass over the whole; a slot in company against the slot alone.
pub(super) fn decoding(lab: &mut Lab<'_>) -> Result<()> {
    for name in ["qwen3", "gemma2"] {
        let config = config(lab, name)?;
        let vocabulary = config.vocab_size as u32;
        let mut model = Decoder::random_on(lab.ops.clone(), config, 7);
        let len = lab.pick(12, 300);
        let tokens: Vec<u32> = (0..len as u32).map(|i| (i * 31 + 5) % vocabulary).collect();
        let prompt = len - 5;
        let mut whole = KvCache::new(&model, 1, len + 10);
        let expected = model.prefill(&mut whole, &[(0, &tokens)])?;
        let mut logits = |company: &[(usize, &[u32])]| -> Result<Vec<f32>> {
            let mut cache = KvCache::new(&model, 4, len + 10);
            let mut prompts = vec![(2, &tokens[..prompt])];
            prompts.extend(company);
            model.prefill(&mut cache, &prompts)?;
            let mut last = Vec::new();
            for &token in &tokens[prompt..] {
                let mut next = vec![(2, token)];
                next.extend(company.iter().map(|(slot, _)| (*slot, 3)));
                last = model.decode(&mut cache, &next)?.row(0).to_vec();
            }
            Ok(last)
        };
        let alone = logits(&[])?;
        let together = logits(&[(0, &tokens[..3]), (1, &tokens[1..prompt])])?;
        lab.near_values(format!("{name}: token by token"), &alone, expected.row(0), 2e-2);
        lab.same(format!("{name}: in company"), &together, &alone);
    }
    Ok(())
}

/// Steps run by their recordings, their tokens chosen on the device, against one step at a time whose
/// logits the host reads.
pub(super) fn recorded_steps(lab: &mut Lab<'_>) -> Result<()> {
    let config = config(lab, "qwen3")?;
    let vocabulary = config.vocab_size as u32;
    let mut model = Decoder::random_on(lab.ops.clone(), config, 7);
    let longest = lab.pick(9, 300);
    let prompts: Vec<Vec<u32>> = [longest, 3, longest / 2]
        .map(|len| (0..len as u32).map(|i| (i * 29 + 5) % vocabulary).collect())
        .to_vec();
    let (bursts, steps) = (3, 3);
    let mut expected = vec![Vec::new(); prompts.len()];
    for (prompt, tokens) in prompts.iter().zip(&mut expected) {
        let mut cache = KvCache::new(&model, 1, longest + 10);
        let mut logits = model.prefill(&mut cache, &[(0, prompt)])?;
        for _ in 0..=bursts * steps {
            let token = Choice::GREEDY.pick(logits.row(0), 0);
            tokens.push(token as f32);
            logits = model.decode(&mut cache, &[(0, token)])?;
        }
    }
    let mut cache = KvCache::new(&model, prompts.len(), longest + 10);
    let sequences: Vec<(usize, &[u32])> = prompts.iter().map(Vec::as_slice).enumerate().collect();
    let mut found = model.start(&mut cache, &sequences, Choice::GREEDY, &[0; 3])?;
    for _ in 0..bursts {
        found.extend(model.proceed(&mut cache, &[0, 1, 2], steps, Choice::GREEDY, &[0; 9])?);
    }
    for (row, expected) in expected.iter().enumerate() {
        let tokens: Vec<f32> =
            found.iter().skip(row).step_by(3).map(|&token| token as f32).collect();
        lab.same(format!("tokens of prompt {row}"), &tokens, expected);
    }
    match cache.refusal() {
        Some(why) => bail!("steps were not recorded: {why}"),
        None => Ok(()),
    }
}

/// Documents of these lengths; about two thirds of the tokens count.
fn documents(lengths: &[u32], seed: u32, vocabulary: u32) -> Batch {
    let mut documents = vec![0];
    documents.extend(lengths.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    }));
    let rows = lengths.iter().sum();
    let target = |i: u32| {
        if (i + seed).is_multiple_of(3) { -1 } else { ((i * 53 + seed) % vocabulary) as i32 }
    };
    Batch {
        tokens: (0..rows).map(|i| (i * 37 + 11 * seed) % vocabulary).collect(),
        targets: (0..rows).map(target).collect(),
        documents,
    }
}

/// Steps whose passes come again in the same shape, and are run by their recordings then, against passes
/// whose gradients stand elsewhere each time, so that none of them comes again.
pub(super) fn recorded_training(lab: &mut Lab<'_>) -> Result<()> {
    let unit = lab.pick(1, 25);
    // One shape with other documents each time; one of more rows than before; the first again.
    let steps: [&[u32]; 5] = [&[9, 5], &[2, 12], &[10, 4], &[16, 3, 10], &[8, 6]];
    let all = [
        ("qwen3", false, Recompute::Block),
        ("gemma2", true, Recompute::Internals),
        ("qwen3", true, Recompute::None),
        ("gemma2", false, Recompute::None),
        ("llama_tied", false, Recompute::Internals),
        ("cohere", true, Recompute::Block),
    ];
    for &(name, is_adapter, recompute) in &all[..lab.pick(2, 6)] {
        let config = config(lab, name)?;
        let vocabulary = config.vocab_size as u32;
        let mut model = Decoder::random_on(lab.ops.clone(), config, 7);
        if is_adapter {
            let targets = Target::ALL.to_vec();
            let lora = Lora::new(8, 16.0, targets);
            model.attach(lora, Base::default(), 5);
        }
        model.set_recompute(recompute);
        let (mut gradients, mut optimizer) = (Gradients::zeros(&model), AdamW::new(&model));
        let mut elsewhere = Vec::new();
        for (step, lengths) in steps.iter().enumerate() {
            let lengths: Vec<u32> = lengths.iter().map(|len| len * unit).collect();
            let batch = documents(&lengths, step as u32, vocabulary);
            let (scale, mut others) = (0.01 * (step + 1) as f32, Gradients::zeros(&model));
            gradients.clear();
            let found = model.forward_backward(&batch, scale, &mut gradients)?;
            let expected = model.forward_backward(&batch, scale, &mut others)?;
            let what = format!("{name}, {recompute:?}, adapter: {is_adapter}, step {step}");
            lab.same(format!("{what}: losses"), &found, &expected);
            let values = |all: &Gradients<Cuda>| -> Vec<f32> {
                all.named().into_iter().flat_map(|(_, values)| values).collect()
            };
            lab.same(format!("{what}: gradients"), &values(&gradients), &values(&others));
            optimizer.step(&mut model, &gradients, 1e-3);
            elsewhere.push(others);
        }
        if let Some(why) = model.refusal() {
            bail!("passes were not recorded: {why}");
        }
    }
    Ok(())
}

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("isogloss-suite-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sums with their answers.
fn sums(count: i64) -> Vec<MixtureRow> {
    let message = |role: &str, content: String| Message { role: role.to_owned(), content };
    let row = |i: i64| {
        let (a, b) = (i * 7 % 50, i * 3 % 20);
        let answer = format!("{}{}", "so ".repeat(i as usize % 4), a + b);
        let example = Example {
            example_id: format!("sum-{i}"),
            item_id: format!("sum-{i}"),
            source: "suite".to_owned(),
            task: "math".to_owned(),
            split: "train".to_owned(),
            lang: "en".to_owned(),
            lang_rule: "agreed".to_owned(),
            messages: vec![
                message("user", format!("What is {a} + {b}?")),
                message("assistant", answer.clone()),
            ],
            reference: Some(answer),
            ..Example::default()
        };
        MixtureRow { example, mixture_id: "m".to_owned(), position: i, repeat: 0 }
    };
    (0..count).map(row).collect()
}

/// A run of the trainer from end to end: once whole, once interrupted after its first step and
/// resumed; the weights are the same files.
pub(super) fn trainer(lab: &mut Lab<'_>) -> Result<()> {
    let folder = Folder::new()?;
    let at = |name: &str| folder.0.join(name);
    std::fs::create_dir_all(at("tokenizer"))?;
    for (name, text) in [
        (
            "tokenizer.json",
            include_str!("../../../tests/fixtures/trainer/tokenizer/tokenizer.json"),
        ),
        (
            "tokenizer_config.json",
            include_str!("../../../tests/fixtures/trainer/tokenizer/tokenizer_config.json"),
        ),
    ] {
        std::fs::write(at("tokenizer").join(name), text)?;
    }
    let mixture = at("mixture.parquet");
    artifact::parquet::write(&mixture, &MIXTURE, &mut mixture_to_frame(&sums(24))?)?;
    let width = lab.pick(64, 512);
    let init = InitConfig {
        model_type: "llama".into(),
        hidden_size: width,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        head_dim: None,
        sliding_window: None,
        intermediate_size: Some(2 * width),
        max_position_embeddings: 256,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        initializer_range: 0.05,
        vocab_size: None,
    };
    let steps = lab.pick(2, 12);
    let settings = format!(
        "batch_size = 4\nlearning_rate = 5e-3\npacking = true\nsequence_length = 64\nsteps = {steps}"
    );
    let run = Run {
        ops: lab.ops.clone(),
        config: artifact::config::from_toml(&settings, Path::new("train.toml"))?,
        base: BaseModel::Random { init, tokenizer: at("tokenizer"), seed: 1 },
        data: TrainData { train: mixture.into(), validation: None },
    };
    let whole = run.to(&at("whole"), &Context::quiet())?;
    ensure!(whole.steps == steps, "{} steps, not {steps}", whole.steps);
    let stopped = Context::quiet();
    stopped.cancel();
    if run.to(&at("parts"), &stopped).is_ok() {
        bail!("a cancelled run went on to its end");
    }
    let parts = run.to(&at("parts"), &Context::quiet())?;
    let weights = |name: &str| std::fs::read(at(name).join("model").join("model.safetensors"));
    let same = weights("whole")? == weights("parts")? && whole.loss == parts.loss;
    let fault = (!same).then(|| "other bits".to_owned());
    lab.tell(format!("{steps} steps, interrupted and resumed"), 0.0, 0.0, fault);
    Ok(())
}

/// A training on the device.
struct Run {
    ops: Cuda,
    config: TrainConfig,
    base: BaseModel,
    data: TrainData,
}

impl Run {
    fn to(&self, out: &Path, ctx: &Context) -> Result<trainer::Summary> {
        std::fs::create_dir_all(out)?;
        trainer::run_on_card(&self.ops, (&self.config, &self.base), &self.data, out, ctx)
    }
}
