//! From rows to documents: masks, what is cut, what is left out.

mod trainer_common;

use artifact::{Context, Example, error::is_user};
use train::{
    RowsFile,
    config::Objective,
    data::{Counts, Dataset, Split},
    encoder::Encoder,
    encodings::Encoding,
};
use trainer_common::{example, fixture, message, sums, write_examples, write_mixture};

fn load(rows: &[Example], objective: Objective, sequence_length: usize) -> anyhow::Result<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixture.parquet");
    write_mixture(&path, rows);
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    let encoding = Encoding::new(&encoder, objective, sequence_length);
    Dataset::load(&path.as_path().into(), Split::Train, &encoding, &Context::quiet())
}

fn text_row(text: &str) -> Example {
    Example { messages: vec![message("text", text)], ..example("text", "en", "", "") }
}

#[test]
fn answers_are_targets_and_prompts_are_not() {
    let data = load(&sums(3), Objective::Sft, 128).unwrap();
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    assert_eq!(data.languages, ["en", "es"]);
    for (document, row) in data.documents.iter().zip(sums(3)) {
        assert_eq!(data.languages[document.language], row.lang);
        let targets: Vec<u32> = document
            .targets
            .iter()
            .filter(|&&target| target >= 0)
            .map(|&target| target as u32)
            .collect();
        assert_eq!(
            encoder.tokenizer.decode_all(&targets).unwrap(),
            format!("{}<|im_end|>", row.messages[1].content)
        );
        for (next, target) in document.tokens[1..].iter().zip(&*document.targets) {
            assert!(
                *target < 0 || *target as u32 == *next,
                "a target is the token after its input"
            );
        }
    }
}

#[test]
fn a_long_answer_is_cut_at_its_end_and_one_beyond_the_limit_is_left_out() {
    let rows = [
        example("long", "en", "Hi", &"The answer is 42. ".repeat(20)),
        example("all-prompt", "en", &"What is 12 + 30? ".repeat(20), "42"),
        example("empty", "en", "Hi", "  "),
        Example { messages: vec![message("user", "Hi")], ..example("no-answer", "en", "", "") },
        example("short", "en", "Hi", "42"),
    ];
    let data = load(&rows, Objective::Sft, 24).unwrap();
    let counts = Counts {
        rows: 5,
        truncated: 1,
        too_long: 1,
        empty: 1,
        without_answer: 1,
        ..Counts::default()
    };
    assert_eq!(data.counts, counts);
    let kept: Vec<&str> =
        data.documents.iter().map(|document| document.example_id.as_str()).collect();
    assert_eq!(kept, ["long", "short"]);
    assert_eq!(data.documents[0].tokens.len(), 24);
    let whole = load(&rows[..1], Objective::Sft, 2000).unwrap();
    assert_eq!(data.documents[0].targets, whole.documents[0].targets[..24].into());
    assert!(data.documents[0].cut && !data.documents[1].cut && !whole.documents[0].cut);
}

#[test]
fn long_text_goes_on_in_the_next_document_and_each_token_is_predicted_once() {
    let text = "A farmer has three hens and sells two of them at the market. ".repeat(8);
    let data = load(&[text_row(&text)], Objective::Lm, 16).unwrap();
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    let expected = encoder.text(&text).unwrap().ids;
    assert!(data.documents.len() > 3);
    let targets: Vec<u32> = data
        .documents
        .iter()
        .flat_map(|document| &*document.targets)
        .map(|&target| target as u32)
        .collect();
    assert_eq!(targets, expected[1..]);
    assert_eq!(expected.last(), encoder.tokenizer.named_id("eos_token").as_ref());
    assert!(data.documents.iter().all(|document| document.tokens.len() <= 16));
}

#[test]
fn plain_examples_are_taken_by_split_and_a_mixture_must_not_hold_test_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("examples.parquet");
    let mut rows = sums(4);
    rows[1].split = "validation".into();
    rows[2].split = "test".into();
    write_examples(&path, &rows);
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    let encoding = Encoding::new(&encoder, Objective::Sft, 64);
    let ids = |split| {
        let data =
            Dataset::load(&path.as_path().into(), split, &encoding, &Context::quiet()).unwrap();
        data.documents.into_iter().map(|document| document.example_id).collect::<Vec<_>>()
    };
    assert_eq!(ids(Split::Train), ["sum-000", "sum-003"]);
    assert_eq!(ids(Split::Validation(&["math".to_owned()])), ["sum-001"]);
    let error = load(&rows, Objective::Sft, 64).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("sum-002"), "{error}");
}

#[test]
fn where_no_row_is_to_be_trained_on_the_splits_that_there_are_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("examples.parquet");
    let mut rows = sums(3);
    for row in &mut rows {
        row.split = "training".into();
    }
    write_examples(&path, &rows);
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    let encoding = Encoding::new(&encoder, Objective::Sft, 64);
    // What lies elsewhere than the user put it is called what the user called it.
    let file = RowsFile { path, name: "theirs.parquet".into() };
    let error = Dataset::load(&file, Split::Train, &encoding, &Context::quiet()).unwrap_err();
    let text = error.to_string();
    assert!(is_user(&error) && text.starts_with("theirs.parquet: "), "{text}");
    assert!(text.contains("3 are of the split \"training\""), "{text}");
}

#[test]
fn validation_is_on_the_tasks_that_are_trained() {
    let folder = tempfile::tempdir().unwrap();
    let (mixture, held_out) =
        (folder.path().join("mixture.parquet"), folder.path().join("validation.parquet"));
    write_mixture(&mixture, &sums(3));
    let mut rows = sums(6).split_off(3);
    for (row, task) in rows.iter_mut().zip(["math", "logic", "math"]) {
        (row.split, row.task) = ("validation".into(), task.into());
    }
    write_examples(&held_out, &rows);
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    let encoding = Encoding::new(&encoder, Objective::Sft, 64);
    let train =
        Dataset::load(&mixture.as_path().into(), Split::Train, &encoding, &Context::quiet())
            .unwrap();
    assert_eq!(train.tasks, ["math"]);
    let split = Split::Validation(&train.tasks);
    let data =
        Dataset::load(&held_out.as_path().into(), split, &encoding, &Context::quiet()).unwrap();
    let ids: Vec<&str> = data.documents.iter().map(|row| row.example_id.as_str()).collect();
    assert_eq!(ids, ["sum-003", "sum-005"]);

    let other = Split::Validation(&["poetry".to_owned()]);
    let error =
        Dataset::load(&held_out.as_path().into(), other, &encoding, &Context::quiet()).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("poetry"), "{error}");
}

#[test]
fn no_row_to_learn_from_is_refused_by_name() {
    let error = load(&[example("empty", "en", "Hi", "")], Objective::Sft, 64).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("mixture.parquet"), "{error}");
}

#[test]
fn a_message_that_the_template_refuses_is_named_with_its_row() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("tokenizer").join(name), folder.path().join(name)).unwrap();
    }
    let template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
                    <|im_start|>{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let mut rows = sums(3);
    rows[2].messages.insert(1, message("tool", "x"));
    let path = folder.path().join("mixture.parquet");
    write_mixture(&path, &rows);
    let encoder = Encoder::load(folder.path()).unwrap();
    let encoding = Encoding::new(&encoder, Objective::Sft, 64);
    let error = Dataset::load(&path.as_path().into(), Split::Train, &encoding, &Context::quiet())
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        is_user(&error)
            && text.contains("sum-002")
            && text.contains("message 1 (tool)")
            && text.contains("no tools"),
        "{text}"
    );
}

#[test]
fn the_tokens_and_mask_of_an_example_can_be_shown() {
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    let shown = encoder.chat_or_text(&example("x", "en", "Hi", "42").messages).unwrap().remove(0);
    let text = |ids: &[u32]| encoder.tokenizer.decode_all(ids).unwrap();
    let all = text(&shown.ids);
    let pairs = shown.ids.iter().zip(&shown.counted);
    let counted = text(&pairs.filter(|pair| *pair.1).map(|pair| *pair.0).collect::<Vec<_>>());
    assert_eq!(all, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n42<|im_end|>\n");
    assert_eq!(counted, "42<|im_end|>");
}
