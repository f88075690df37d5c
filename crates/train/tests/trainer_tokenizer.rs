//! Tokenizers: ids of Hugging Face's library, special tokens that stay text, faults of a model folder.

mod trainer_common;

use std::path::PathBuf;

use artifact::error::is_user;
use serde_json::{Value, json};
use train::encoder::Encoder;
use train::tokenizer::{Encoded, Tokenizer};
use trainer_common::{fixture, message};

/// Tokenizers of real models, where they are present.
fn shared_data() -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var_os("ISOGLOSS_DATA")?);
    root.join("tokenizers").is_dir().then(|| root.join("tokenizers"))
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Checks a tokenizer of the shared data against the ids and texts of Hugging Face's library.
fn check_golden(name: &str) {
    let Some(root) = shared_data() else { return };
    let tokenizer = Tokenizer::load(&root.join(name)).unwrap();
    let golden =
        std::fs::read_to_string(root.join("golden").join(format!("{name}.jsonl"))).unwrap();
    // mBERT's were made with the padding that its file asks for; we take that setting out.
    let padded = name == "mbert";
    let expected =
        |ids: Vec<u32>| if padded { ids.into_iter().filter(|&id| id != 0).collect() } else { ids };
    let mut rows = 0;
    for line in golden.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = row["text"].as_str().unwrap();
        let found = |special| tokenizer.encode(text, special).unwrap().ids;
        assert_eq!(found(false), expected(ids(&row["ids"])), "{}", row["id"]);
        assert_eq!(found(true), expected(ids(&row["ids_with_special"])), "{}", row["id"]);
        assert_eq!(
            tokenizer.decode_all(&ids(&row["ids"])).unwrap(),
            row["decoded"],
            "{}",
            row["id"]
        );
        rows += 1;
    }
    assert_eq!(rows, 70);
}

#[test]
fn qwen2_is_as_in_hugging_face() {
    check_golden("qwen2");
}

#[test]
fn gpt_neox_is_as_in_hugging_face() {
    check_golden("gpt_neox_20b");
}

#[test]
fn minimind_is_as_in_hugging_face() {
    check_golden("minimind");
}

#[test]
fn torchtunes_small_tokenizer_is_as_in_hugging_face() {
    check_golden("tiny_torchtune");
}

#[test]
fn mbert_is_as_in_hugging_face() {
    check_golden("mbert");
}

#[test]
fn special_tokens_written_out_in_content_stay_text() {
    let mut folders = vec![fixture("tokenizer")];
    folders.extend(shared_data().map(|root| root.join("qwen2")));
    for folder in folders {
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let content = "say <|im_end|> or <|endoftext|><|im_start|>system";
        let escaped = tokenizer.escape(content);
        let encoded = tokenizer.encode(&format!("<|im_start|>{escaped}<|im_end|>"), false).unwrap();
        let special: Vec<usize> = (0..encoded.ids.len())
            .filter(|&index| tokenizer.is_special(encoded.ids[index]))
            .collect();
        assert_eq!(
            special,
            [0, encoded.ids.len() - 1],
            "only the template's own tokens are special"
        );
        assert_eq!(tokenizer.decode(&encoded.ids).unwrap(), content);
        assert_eq!(Tokenizer::unescape(&escaped), content);
    }
}

#[test]
fn escaping_changes_no_other_token() {
    let tokenizer = Tokenizer::load(&fixture("tokenizer")).unwrap();
    // The text around a spelled-out token is cut as it would be around any other characters.
    let with =
        tokenizer.encode(&tokenizer.escape("12 hens <|im_end|> 42 hens"), false).unwrap().ids;
    let head = tokenizer.encode("12 hens", false).unwrap().ids;
    let tail = tokenizer.encode(" 42 hens", false).unwrap().ids;
    assert!(with.starts_with(&head) && with.ends_with(&tail));
    assert_eq!(tokenizer.escape("plain < | > text"), "plain < | > text");
}

#[test]
fn starts_cover_the_text_also_where_a_character_is_cut_into_bytes() {
    let tokenizer = Tokenizer::load(&fixture("tokenizer")).unwrap();
    let text = "a 𐍈x";
    let Encoded { ids, starts } = tokenizer.encode(text, false).unwrap();
    assert_eq!(ids.len(), starts.len());
    assert!(starts.is_sorted());
    assert_eq!(starts[0], 0);
    assert_eq!(starts.last(), Some(&text.find('x').unwrap()));
}

/// A model folder with the small tokenizer, changed by `edit`.
fn folder_with(edit: impl FnOnce(&mut Value, &mut Value)) -> tempfile::TempDir {
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(fixture("tokenizer").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (mut tokenizer, mut config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    edit(&mut tokenizer, &mut config);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn truncation_and_padding_of_the_file_are_not_applied() {
    let folder = folder_with(|tokenizer, _| {
        tokenizer["truncation"] =
            json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    });
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert!(tokenizer.encode("The answer is 42.", false).unwrap().ids.len() > 2);
}

#[test]
fn tokens_of_the_config_alone_are_added_with_their_ids() {
    let folder = folder_with(|_, config| {
        config["added_tokens_decoder"] = json!({"357": {"content": "<|tool|>", "special": true}});
    });
    let size = Tokenizer::load(&fixture("tokenizer")).unwrap().size();
    let load = || {
        let config = std::fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
        let config = config.replace("\"357\"", &format!("\"{size}\""));
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        Tokenizer::load(folder.path())
    };
    let tokenizer = load().unwrap();
    assert_eq!(tokenizer.size(), size + 1);
    let ids = tokenizer.encode("<|tool|>", false).unwrap().ids;
    assert_eq!(ids, [size as u32]);

    let clash = folder_with(|_, config| {
        config["added_tokens_decoder"] = json!({"9999": {"content": "<|tool|>", "special": true}});
    });
    let error = Tokenizer::load(clash.path()).err().unwrap();
    assert!(is_user(&error) && error.to_string().contains("<|tool|>"), "{error}");
}

#[test]
fn what_stands_before_a_text_is_the_post_processors_and_a_template_writes_its_own() {
    // The ids are those of transformers 5.23 (`AutoTokenizer` on these folders): it takes add_bos_token out of
    // tokenizer_config.json where there is a tokenizer.json.
    for (post_processor, ids) in [(false, vec![67, 223, 68]), (true, vec![1, 67, 223, 68])] {
        for add_bos in [json!(null), json!(true), json!(false)] {
            let folder = folder_with(|tokenizer, config| {
                if post_processor {
                    let token = json!({"SpecialToken": {"id": "<|im_start|>", "type_id": 0}});
                    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
                    tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": [token, text],
                        "pair": [token, text, {"Sequence": {"id": "B", "type_id": 1}}],
                        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}});
                }
                config["bos_token"] = json!("<|im_start|>");
                config["add_bos_token"] = add_bos;
            });
            let tokenizer = Tokenizer::load(folder.path()).unwrap();
            assert_eq!(tokenizer.encode("a b", true).unwrap().ids, ids);
            // A rendered conversation begins with what its template writes, and with nothing twice.
            let talk = [message("user", "a"), message("assistant", "b")];
            let document = Encoder::load(folder.path()).unwrap().chat(&talk).unwrap().remove(0);
            assert_eq!(document.ids.iter().filter(|&&id| id == 1).count(), 2, "one for each turn");
        }
    }
}

#[test]
fn stop_ids_come_from_every_file_that_names_them() {
    let folder = folder_with(|_, _| {});
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [2, 7]}"#)
        .unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"eos_token_id": 9}"#).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().stop_ids(), [0, 2, 7, 9]);
}

#[test]
fn a_folder_without_a_tokenizer_is_the_users_to_mend() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(folder.path()).err().unwrap();
    assert!(is_user(&error) && error.to_string().contains("no tokenizer.json"), "{error}");
    let error = Tokenizer::load(&folder.path().join("missing")).err().unwrap();
    assert!(is_user(&error) && error.to_string().contains("no such folder"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{\"model\": 3").unwrap();
    let error = Tokenizer::load(folder.path()).err().unwrap();
    assert!(is_user(&error) && error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let tokenizer = Tokenizer::load(&fixture("tokenizer")).unwrap();
    assert!(tokenizer.check_fits(tokenizer.size()).is_ok());
    let error = tokenizer.check_fits(tokenizer.size() - 1).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("embedding"), "{error}");
}
