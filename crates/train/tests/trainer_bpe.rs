//! Training a tokenizer.

mod trainer_common;

use artifact::{Context, Example, error::is_user};
use train::{TokenizerConfig, encoder::Encoder, train_tokenizer};
use trainer_common::{message, sums, write_examples};

fn train_in(
    folder: &std::path::Path,
    name: &str,
    threads: usize,
    vocab_size: usize,
) -> anyhow::Result<std::path::PathBuf> {
    let out = folder.join(name);
    std::fs::create_dir_all(&out).unwrap();
    let config = TokenizerConfig { vocab_size, ..TokenizerConfig::default() };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        train_tokenizer(&config, &folder.join("examples.parquet"), &out, &Context::quiet())
    })?;
    Ok(out)
}

#[test]
fn the_same_text_gives_the_same_tokenizer_with_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    write_examples(&folder.path().join("examples.parquet"), &sums(200));
    let read = |name, threads| {
        let out = train_in(folder.path(), name, threads, 300).unwrap();
        std::fs::read(out.join("tokenizer.json")).unwrap()
    };
    let one = read("one", 1);
    assert!(one == read("two", 2) && one == read("again", 2));
}

#[test]
fn digits_stand_alone_marks_stay_with_letters_and_text_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let text = |id: usize| Example {
        example_id: id.to_string(),
        split: "train".into(),
        task: "text".into(),
        messages: vec![message("text", "नमस्ते दुनिया 1234 สวัสดี it's 1234")],
        ..Example::default()
    };
    write_examples(&folder.path().join("examples.parquet"), &(0..4).map(text).collect::<Vec<_>>());
    let out = train_in(folder.path(), "out", 2, 400).unwrap();
    let encoder = Encoder::load(&out).unwrap();
    let tokenizer = &encoder.tokenizer;
    assert_eq!(tokenizer.encode("1234", false).unwrap().ids.len(), 4);
    assert_eq!(
        tokenizer.encode("नमस्ते", false).unwrap().ids.len(),
        1,
        "a word seen four times is one token"
    );
    for text in ["नमस्ते 99", "새 글 🎉\n\n\tx", "it's"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap().ids).unwrap(), text);
    }
    for (token, id) in [("<|endoftext|>", 0), ("<|im_start|>", 1), ("<|im_end|>", 2)] {
        assert_eq!(tokenizer.id(token), Some(id));
    }
    assert_eq!(encoder.stop_ids().unwrap(), [0, 2]);
    assert!(!encoder.template.is_default(), "the chat template is written out");
}

#[test]
fn too_small_a_vocabulary_and_no_text_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_examples(&folder.path().join("examples.parquet"), &sums(4));
    let error = train_in(folder.path(), "small", 1, 258).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("259"), "{error}");
    let tests: Vec<Example> =
        sums(4).into_iter().map(|example| Example { split: "test".into(), ..example }).collect();
    write_examples(&folder.path().join("examples.parquet"), &tests);
    let error = train_in(folder.path(), "none", 1, 300).unwrap_err();
    assert!(
        is_user(&error) && error.to_string().contains("no text"),
        "test rows are not learnt from: {error}"
    );
}
