//! A small place to train in.

use crate::common::Place;

/// A folder with English sums as examples, a tokenizer and a model's shape; `train`: sums to train on.
pub fn place(train: usize) -> Place {
    let place = Place::new();
    let counts = format!("--train {train} --validation 4");
    place.run(&format!("synth --languages en,es --tasks math {counts} --out raw")).ok();
    place.run("ingest raw --out data").ok();
    place.run("tokenizer --data data --vocab-size 400 --out tok").ok();
    place.write(
        "shape.toml",
        "hidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\nmax_position_embeddings = 256\n",
    );
    place
}
