//! Times one kind of work of the engine and prints tokens a second, one JSON object a line.
//!
//!     step --shape small|qwen --work train|generate --batch N --threads T --seconds S
//!     step --shape small|qwen --work save --model DIR [--dtype f32|bf16]
//!     step --work load --model DIR --threads T
//!
//! A training step is forward, backward and AdamW on `batch` documents; generation is greedy,
//! tokens are those generated. `benches/train.py` at the root of the repository runs this side by
//! side with PyTorch. Loading gives the rate of the file's bytes and the most memory that the
//! process had.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use train::model::adapter::{Lora, Target};
use train::model::{Base, Batch, Dtype, Gradients, KvCache, Model, ModelConfig};
use train::ops::sample::Choice;
use train::optimizer::AdamW;

/// One of the two models that are timed: its config, a document's tokens in training, a prompt's
/// and an answer's in generation.
struct Shape {
    config: serde_json::Value,
    document: usize,
    prompt: usize,
    answer: usize,
}

fn shape(name: &str) -> Result<Shape> {
    Ok(match name {
        "small" => Shape {
            config: json!({"model_type": "llama", "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 384,
                "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
                "max_position_embeddings": 512, "tie_word_embeddings": true}),
            document: 64,
            prompt: 64,
            answer: 128,
        },
        "qwen" => Shape {
            config: json!({"model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864,
                "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "rope_theta": 1e6,
                "max_position_embeddings": 32768, "tie_word_embeddings": true}),
            document: 256,
            prompt: 64,
            answer: 16,
        },
        _ => bail!("--shape {name}: small or qwen"),
    })
}

/// Ids that look like nothing in particular.
fn ids(len: usize, vocab: usize, seed: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729 + 13) % vocab) as u32).collect()
}

/// Repeats `work` for at least `seconds`; the median duration of one call, after one that does not
/// count.
fn median(seconds: f64, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || start.elapsed().as_secs_f64() < seconds {
        let one = Instant::now();
        work()?;
        times.push(one.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Seconds of a training step on `batch` documents.
fn train(model: &mut Model, shape: &Shape, batch: usize, seconds: f64) -> Result<f64> {
    let (rows, vocab) = (batch * shape.document, model.config().vocab_size);
    let tokens = ids(rows, vocab, 1);
    let targets = tokens.iter().map(|&id| (id as i32 * 31 + 7) % vocab as i32).collect();
    let documents = (0..=batch).map(|i| (i * shape.document) as u32).collect();
    let batch = Batch { tokens, targets, documents };
    let (mut gradients, mut optimizer) = (Gradients::zeros(model), AdamW::new(model));
    median(seconds, || {
        gradients.clear();
        model.forward_backward(&batch, 1.0 / rows as f32, &mut gradients)?;
        optimizer.step(model, &gradients, 1e-5);
        Ok(())
    })
}

/// Seconds of one generation of `batch` answers, prompts included.
fn generate(model: &mut Model, shape: &Shape, batch: usize, seconds: f64) -> Result<f64> {
    let prompts: Vec<Vec<u32>> =
        (0..batch).map(|i| ids(shape.prompt, model.config().vocab_size, i)).collect();
    let mut cache = KvCache::new(model, batch, shape.prompt + shape.answer);
    median(seconds, || {
        let sequences: Vec<(usize, &[u32])> =
            prompts.iter().map(|prompt| &prompt[..]).enumerate().collect();
        model.start(&mut cache, &sequences, Choice::GREEDY, &vec![0; batch])?;
        let slots: Vec<usize> = (0..batch).collect();
        for _ in 1..shape.answer {
            model.proceed(&mut cache, &slots, 1, Choice::GREEDY, &vec![0; batch])?;
        }
        Ok(())
    })
}

/// Loads a folder, and says how fast and in how much memory.
fn load(dir: &Path) -> Result<()> {
    let bytes = std::fs::metadata(dir.join("model.safetensors"))?.len();
    let start = Instant::now();
    let model = Model::load(dir)?;
    let seconds = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown");
    println!(
        "{}",
        json!({"work": "load", "parameters": model.parameter_count(), "file_bytes": bytes, "seconds": seconds,
            "gigabytes_per_second": bytes as f64 / 1e9 / seconds, "peak_memory": peak.trim()})
    );
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default.to_owned(), Clone::clone)
    };
    let (name, work) = (option("--shape", "small"), option("--work", "train"));
    let (batch, threads) =
        (option("--batch", "32").parse::<usize>()?, option("--threads", "2").parse()?);
    let seconds: f64 = option("--seconds", "3").parse().context("--seconds")?;
    let (shape, dir, dtype) = (shape(&name)?, option("--model", ""), option("--dtype", "f32"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| {
        if work == "load" {
            return load(Path::new(&dir));
        }
        let config = ModelConfig::parse(&shape.config.to_string(), Path::new("config.json"))?;
        let mut model = Model::random(config, 1);
        if work == "save" {
            let dtype = if dtype == "bf16" { Dtype::Bf16 } else { Dtype::F32 };
            return model.save(Path::new(&dir), dtype);
        }
        let (time, tokens) = match &work[..] {
            "train" => (train(&mut model, &shape, batch, seconds)?, batch * shape.document),
            "lora" => {
                let (rank, targets) = (16, Target::ALL.to_vec());
                let lora = Lora::new(rank, 32.0, targets);
                model.attach(lora, Base::default(), 1);
                (train(&mut model, &shape, batch, seconds)?, batch * shape.document)
            }
            "generate" => (generate(&mut model, &shape, batch, seconds)?, batch * shape.answer),
            _ => bail!("--work {work}: train, lora, generate, save or load"),
        };
        let speed = tokens as f64 / time;
        println!(
            "{}",
            json!({"shape": name, "work": work, "batch": batch, "threads": threads,
            "parameters": model.parameter_count(), "seconds": time, "tokens_per_second": speed})
        );
        Ok(())
    })
}
