//! How texts are cut and framed by the files of BERT's and RoBERTa's tokenizers, as transformers does it (`tests/golden/framed_texts.py`).

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Result;
use crate::files::TextFile;
use crate::tokenizer::{BpeFiles, Pipeline, Tokenizer, WordPieceFiles};

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

struct Files(PathBuf);

impl Files {
    fn write(&self, name: &str, text: &str) -> Result<TextFile> {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        TextFile::open(&path, "a tokenizer's file")
    }
}

/// Holds every text of a setting, and tells how many there are.
fn hold(what: &str, tokenizer: &Tokenizer, cases: &Value) -> Result<usize> {
    let cases = cases.as_array().expect("a list");
    for case in cases {
        let (first, second) = (text(&case["text"]), text(&case["second"]));
        let (alone, types) = tokenizer.encode_framed(first, None, true)?;
        assert_eq!(alone, ids(&case["ids"]), "{what}: {first:?}");
        assert!(types.iter().all(|&of| of == 0), "{what}: {first:?}");
        assert_eq!(tokenizer.encode_framed(first, None, false)?.0, ids(&case["bare"]), "{what}: {first:?}");
        let pair = tokenizer.encode_framed(first, Some(second), true)?;
        assert_eq!(pair, (ids(&case["pair"]), ids(&case["types"])), "{what}: {first:?}, {second:?}");
    }
    Ok(cases.len())
}

#[test]
fn texts_are_framed_as_transformers_frames_them() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/framed_texts.json");
    let golden: Value =
        serde_json::from_slice(&std::fs::read(Path::new(path)).expect("the file")).expect("JSON");
    let files = Files(std::env::temp_dir().join(format!("headlight-framed-{}", std::process::id())));
    std::fs::create_dir_all(&files.0).expect("a folder");
    let lines = |name: &str| -> String {
        golden[name].as_array().expect("lines").iter().map(|line| format!("{}\n", text(line))).collect()
    };
    let mut held = 0;
    for setting in golden["bert"].as_array().expect("settings") {
        let vocab = files.write("vocab.txt", &lines("vocab.txt"))?;
        let config = Some(files.write("tokenizer_config.json", &setting["config"].to_string())?);
        let pipeline = Pipeline::from_word_piece_files(WordPieceFiles { vocab, config })?;
        let tokenizer = Tokenizer::unread(|| Ok(Some(pipeline)));
        held += hold(&format!("bert {}", setting["config"]), &tokenizer, &setting["cases"])?;
    }
    for setting in golden["roberta"].as_array().expect("settings") {
        let vocab = files.write("vocab.json", &golden["vocab.json"].to_string())?;
        let merges = files.write("merges.txt", &format!("#version: 0.2\n{}", lines("merges.txt")))?;
        let config = Some(files.write("tokenizer_config.json", &setting["config"].to_string())?);
        let pipeline = Pipeline::from_bpe_files(BpeFiles { vocab, merges, config }, "roberta")?;
        let tokenizer = Tokenizer::unread(|| Ok(Some(pipeline)));
        held += hold(&format!("roberta {}", setting["config"]), &tokenizer, &setting["cases"])?;
    }
    std::fs::remove_dir_all(&files.0).ok();
    assert_eq!(held, 8 * 27);
    Ok(())
}
