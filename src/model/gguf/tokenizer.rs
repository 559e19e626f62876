//! A GGUF file's tokenizer, written as the `tokenizer.json` that it was made from.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::header::{Header, shown};
use crate::error::{Error, ErrorKind, Result, nearest};

/// How text is cut before pairs are merged, by the names of `tokenizer.ggml.pre`.
struct Cut {
    names: &'static [&'static str],
    normalizer: Option<&'static str>,
    digits: bool,
    /// Instead of GPT-2's own.
    pattern: Option<&'static str>,
    ignore_merges: bool,
}

const GPT2: Cut = Cut {
    names: &["gpt-2", "olmo", "phi-2", "jais", "mpt"],
    normalizer: None,
    digits: false,
    pattern: None,
    ignore_merges: false,
};

const CUTS: [Cut; 4] = [
    GPT2,
    Cut { names: &["smollm", "starcoder", "refact", "command-r", "codeshell"], digits: true, ..GPT2 },
    Cut {
        names: &["llama-bpe", "llama3", "llama-v3"],
        pattern: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: true,
        ..GPT2
    },
    Cut {
        names: &["qwen2"],
        normalizer: Some("NFC"),
        pattern: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ..GPT2
    },
];

/// The sorts of token that `tokenizer.ggml.token_type` tells apart.
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// The text of a `tokenizer.json`; nothing for a file without a tokenizer.
pub(super) fn translate(header: &Header) -> Result<Option<String>> {
    if !header.says("tokenizer.ggml.model") {
        return Ok(None);
    }
    let tokens: Vec<String> =
        header.texts("tokenizer.ggml.tokens")?.into_iter().map(|token| token.into_owned()).collect();
    let kinds = header.optional("tokenizer.ggml.token_type", Header::numbers)?.unwrap_or_default();
    if !kinds.is_empty() && kinds.len() != tokens.len() {
        return Err(refused(
            format!("{} has {} tokens and {} types of them", header.path, tokens.len(), kinds.len()),
            "convert the model again",
        ));
    }
    let kind = |id: usize| kinds.get(id).copied().unwrap_or(1.0);
    let added: Vec<Value> = (0..tokens.len())
        .filter(|&id| [CONTROL, USER_DEFINED].contains(&kind(id)))
        .map(|id| {
            json!({
                "id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind(id) == CONTROL,
            })
        })
        .collect();
    let mut json = match header.text("tokenizer.ggml.model")? {
        "gpt2" => byte_level(header, &tokens)?,
        "llama" => sentence_pieces(header, &tokens, (0..tokens.len()).find(|&id| kind(id) == UNKNOWN))?,
        other => {
            return Err(refused(
                format!("{} has a tokenizer of type `{}`, which is not known", header.path, shown(other)),
                "types gpt2 and llama are read: take another file, or the model in Hugging Face's format",
            ));
        }
    };
    json["version"] = json!("1.0");
    json["added_tokens"] = json!(added);
    Ok(Some(json.to_string()))
}

fn refused(what: String, help: &str) -> Error {
    Error::new(ErrorKind::Tokenizer, what).help(help)
}

fn vocab(tokens: &[String]) -> Map<String, Value> {
    tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect()
}

fn byte_level(header: &Header, tokens: &[String]) -> Result<Value> {
    let said = header.optional("tokenizer.ggml.pre", Header::text)?;
    let is_old = ["gpt2", "gptneox"].contains(&header.text("general.architecture")?);
    // Files of before the entry was there, or written without knowing it.
    let name = match said {
        None | Some("default") if is_old => "gpt-2",
        None => "none",
        Some(name) => name,
    };
    let Some(cut) = CUTS.iter().find(|cut| cut.names.contains(&name)) else {
        let known: Vec<&str> = CUTS.iter().flat_map(|cut| cut.names).copied().collect();
        let error = Error::new(
            ErrorKind::Tokenizer,
            format!("{} cuts text by `{}`, which is not known", header.path, shown(name)),
        );
        return Err(match nearest(name, known.iter().copied()) {
            Some(guess) => {
                error.help(format!("the nearest that is known is `{guess}`, but text would be cut otherwise"))
            }
            None => error.help(format!("known: {}", known.join(", "))),
        });
    };
    let level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let mut steps = Vec::new();
    if cut.digits {
        steps.push(json!({"type": "Digits", "individual_digits": true}));
    }
    if let Some(pattern) = cut.pattern {
        steps.push(
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
        );
    }
    steps.push(level(cut.pattern.is_none()));
    Ok(json!({
        "normalizer": cut.normalizer.map(|name| json!({"type": name})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": level(true),
        "model": {
            "type": "BPE", "fuse_unk": false, "byte_fallback": false, "ignore_merges": cut.ignore_merges,
            "vocab": vocab(tokens), "merges": header.texts("tokenizer.ggml.merges")?,
        },
    }))
}

/// SentencePiece's BPE: the pairs to merge follow from the pieces, the likeliest first.
fn sentence_pieces(header: &Header, tokens: &[String], unknown: Option<usize>) -> Result<Value> {
    let scores = header.numbers("tokenizer.ggml.scores")?;
    if scores.len() != tokens.len() {
        let what = format!("{} has {} tokens and {} scores of them", header.path, tokens.len(), scores.len());
        return Err(refused(what, "convert the model again"));
    }
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        // A piece is as long as a few words at most; a longer one would only cost time.
        if token.len() > 512 {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                merges.push((scores[id], left_id, right_id, [left, right]));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<[&str; 2]> = merges.into_iter().map(|(.., pair)| pair).collect();
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefixed = header.optional("tokenizer.ggml.add_space_prefix", Header::flag)?.unwrap_or(true);
    let mut normalizers = vec![space];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "unk_token": unknown.map(|id| &tokens[id]), "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": vocab(tokens), "merges": merges,
        },
    }))
}
