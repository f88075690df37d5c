//! Whole models with random weights of the right shapes: steps of full tuning and of an adapter over
//! packed documents, and generation.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Bed, Work};
use crate::cuda::Cuda;
use crate::model::adapter::{Lora, Target};
use crate::model::{Base, Batch, Decoder, Gradients, KvCache, ModelConfig};
use crate::ops::sample::Choice;
use crate::ops::{Form, Kind};
use crate::optimizer::{AdamW, Policy};

/// A model's name, hidden size, layers, heads, key heads, feed-forward, tied.
type Facts = (&'static str, usize, usize, usize, usize, usize, bool);

const QWEN2: &[Facts] = &[
    ("0.5B", 896, 24, 14, 2, 4864, true),
    ("1.5B", 1536, 28, 12, 2, 8960, true),
    ("7B", 3584, 28, 28, 4, 18_944, false),
];
const QWEN3: &[Facts] = &[
    ("0.6B", 1024, 28, 16, 8, 3072, true),
    ("1.7B", 2048, 28, 16, 8, 6144, true),
    ("4B", 2560, 36, 32, 8, 9728, true),
    ("8B", 4096, 36, 32, 8, 12_288, false),
];
const TINY: &[Facts] = &[("tiny", 64, 2, 4, 2, 96, true)];

/// The config as transformers reads it, too.
fn config(model_type: &str, facts: Facts) -> Value {
    let (name, hidden, layers, heads, key_values, width, tied) = facts;
    let vocabulary = match (name, model_type) {
        ("tiny", _) => 136,
        ("7B", _) => 152_064,
        _ => 151_936,
    };
    let head = if model_type == "qwen3" && name != "tiny" { 128 } else { hidden / heads };
    let mut config = json!({"model_type": model_type, "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_values, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "tie_word_embeddings": tied, "initializer_range": 0.02, "hidden_act": "silu"});
    if model_type == "qwen3" {
        config["head_dim"] = json!(head);
    }
    config
}

fn parse(config: &Value) -> Result<ModelConfig> {
    ModelConfig::parse(&config.to_string(), Path::new("config.json"))
}

/// Documents of `length` tokens, laid end to end; every token counts.
fn packed(count: usize, length: usize, vocabulary: usize) -> Batch {
    let rows = count * length;
    let id = |i: usize| (i * 7919 + 13) % vocabulary;
    Batch {
        tokens: (0..rows).map(|i| id(i) as u32).collect(),
        targets: (0..rows).map(|i| id(i * 31 + 7) as i32).collect(),
        documents: (0..=count).map(|i| (i * length) as u32).collect(),
    }
}

/// Operations a token of a forward pass over documents of `length`: two a weight that is multiplied
/// with, and those of causal attention.
fn forward_flops(config: &ModelConfig, parameters: usize, length: usize) -> f64 {
    let embedding = config.vocab_size * config.hidden_size;
    let multiplied = if config.tie_word_embeddings { parameters } else { parameters - embedding };
    let attention = 2 * length * config.query_width() * config.num_hidden_layers;
    2.0 * multiplied as f64 + attention as f64
}

/// Times training steps on one batch, every one of whose tokens costs so many operations.
fn time_steps(
    bed: &mut Bed<'_>,
    (case, with): (String, Value),
    (mut model, mut optimizer): (Decoder<Cuda>, AdamW<Cuda>),
    batch: &Batch,
    of_a_token: f64,
) -> Result<()> {
    let tokens = batch.tokens.len() as f64;
    let work = Work { flops: tokens * of_a_token, tokens, ..Work::default() };
    let mut gradients = Gradients::zeros(&model);
    bed.time(case, with, work, || {
        gradients.clear();
        model.forward_backward(batch, (1.0 / tokens) as f32, &mut gradients)?;
        optimizer.step(&mut model, &gradients, 1e-6);
        Ok(())
    })
}

/// Steps of full tuning: forward, backward, AdamW. Above 3B weights stand in bf16 alone, as PyTorch's
/// do, since masters and f32 states do not fit on one card beside whole gradients.
pub(super) fn step(bed: &mut Bed<'_>) -> Result<()> {
    for &facts in bed.pick(TINY, QWEN2) {
        let (config, large) = (config("qwen2", facts), facts.1 > 3000);
        let (count, length) = bed.pick((2, 20), (if large { 8 } else { 16 }, 1024));
        let (kind, states) =
            if large { (Kind::Narrow, Form::Bf16) } else { (Kind::Weight, Form::F32) };
        let model = Decoder::random_as(bed.ops.clone(), kind, parse(&config)?, 1);
        bed.ops_check()?;
        let batch = packed(count, length, model.config().vocab_size);
        let of_a_token = 3.0 * forward_flops(model.config(), model.parameter_count(), length);
        let with = json!({"config": config, "documents": count, "length": length});
        let optimizer = AdamW::with(&model, Policy { states, ..Policy::default() });
        let case = format!("Qwen2.5 {}, {count} x {length}", facts.0);
        time_steps(bed, (case, with), (model, optimizer), &batch, of_a_token)?;
    }
    Ok(())
}

/// Steps of an adapter of rank 16 beside frozen weights.
pub(super) fn lora(bed: &mut Bed<'_>) -> Result<()> {
    for &facts in bed.pick(TINY, QWEN3) {
        let (count, length) = bed.pick((2, 20), (2, 2048));
        let config = config("qwen3", facts);
        let mut model = Decoder::random_as(bed.ops.clone(), Kind::Frozen, parse(&config)?, 1);
        bed.ops_check()?;
        let rank = bed.pick(8, 16);
        let lora = Lora::new(rank, 32.0, Target::ALL.to_vec());
        model.attach(lora, Base::default(), 1);
        let batch = packed(count, length, model.config().vocab_size);
        // Forward, and the gradients of what goes in: those of the weights are not taken.
        let of_a_token = 2.0 * forward_flops(model.config(), model.parameter_count(), length);
        let with = json!({"config": config, "documents": count, "length": length, "rank": rank});
        let (case, optimizer) =
            (format!("Qwen3 {}, {count} x {length}", facts.0), AdamW::new(&model));
        time_steps(bed, (case, with), (model, optimizer), &batch, of_a_token)?;
    }
    Ok(())
}

/// Greedy answers of the 7B shape, alone and 64 at a time: one decoding step, prompts left out.
pub(super) fn generate(bed: &mut Bed<'_>) -> Result<()> {
    let facts = bed.pick(TINY[0], QWEN2[2]);
    let (prompt, answer) = bed.pick((5, 4), (128, 64));
    let config = config("qwen2", facts);
    let mut model = Decoder::random_as(bed.ops.clone(), Kind::Frozen, parse(&config)?, 1);
    bed.ops_check()?;
    let vocabulary = model.config().vocab_size;
    let embedding = if facts.6 { 0 } else { vocabulary * facts.1 };
    // Every weight but the embedding's is read once a step, in two bytes.
    let weights = 2.0 * (model.parameter_count() - embedding) as f64;
    let kept = model.config().num_hidden_layers * model.config().heads().key_value_width() * 2 * 2;
    for slots in bed.pick(vec![2], vec![1, 64]) {
        let read = weights + (slots * kept * (prompt + answer / 2)) as f64;
        let work =
            Work { bytes: read * answer as f64, tokens: (slots * answer) as f64, flops: 0.0 };
        let with = json!({"config": config, "slots": slots, "prompt": prompt, "answer": answer});
        let ids: Vec<u32> = (0..prompt).map(|i| ((i * 31 + 5) % vocabulary) as u32).collect();
        let prompts: Vec<(usize, &[u32])> = (0..slots).map(|slot| (slot, &ids[..])).collect();
        let mut cache = KvCache::new(&model, slots, prompt + 8 * answer);
        let case = format!("Qwen2.5 {}, {slots} at a time", facts.0);
        let (all, chances): (Vec<usize>, _) = ((0..slots).collect(), vec![0; slots]);
        model.start(&mut cache, &prompts, Choice::GREEDY, &chances)?;
        bed.time(case, with, work, || {
            if cache.len(0) + answer >= cache.capacity() {
                // Full: from the prompts again. One run in eight is longer, which no median sees.
                model.start(&mut cache, &prompts, Choice::GREEDY, &chances)?;
            }
            let mut left = answer;
            while left > 0 {
                let steps = left.min(model.most_steps());
                let chances = vec![0; steps * slots];
                model.proceed(&mut cache, &all, steps, Choice::GREEDY, &chances)?;
                left -= steps;
            }
            Ok(())
        })?;
    }
    Ok(())
}
