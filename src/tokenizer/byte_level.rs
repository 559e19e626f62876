//! How byte-level BPEs cut text before pairs are merged: families differ in that alone.

use serde_json::{Value, json};

/// A way to cut, with the names that it goes by.
pub(crate) struct ByteLevel {
    /// In a GGUF file's `tokenizer.ggml.pre`.
    pub(crate) ggml: &'static [&'static str],
    /// The classes of transformers.
    classes: &'static [&'static str],
    /// The `model_type` of what has such a tokenizer, where files say no class.
    families: &'static [&'static str],
    normalizer: Option<&'static str>,
    digits: bool,
    /// Instead of GPT-2's own.
    pattern: Option<&'static str>,
    pub(crate) ignore_merges: bool,
    /// Whether text stands between `<s>` and `</s>`, and two texts with two of the latter between them.
    pub(crate) is_framed: bool,
}

const GPT2: ByteLevel = ByteLevel {
    ggml: &["gpt-2", "olmo", "phi-2", "jais", "mpt"],
    classes: &["GPT2Tokenizer"],
    families: &["gpt2", "gpt_neo", "gptj"],
    normalizer: None,
    digits: false,
    pattern: None,
    ignore_merges: false,
    is_framed: false,
};

const NAMELESS: ByteLevel = ByteLevel { ggml: &[], classes: &[], families: &[], ..GPT2 };

pub(crate) static ALL: [ByteLevel; 6] = [
    GPT2,
    ByteLevel { classes: &["RobertaTokenizer"], families: &["roberta"], is_framed: true, ..NAMELESS },
    ByteLevel {
        classes: &["GPTNeoXTokenizer"],
        families: &["gpt_neox"],
        normalizer: Some("NFC"),
        ..NAMELESS
    },
    ByteLevel {
        ggml: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        digits: true,
        ..NAMELESS
    },
    ByteLevel {
        ggml: &["llama-bpe", "llama3", "llama-v3"],
        pattern: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: true,
        ..NAMELESS
    },
    ByteLevel {
        ggml: &["qwen2"],
        classes: &["Qwen2Tokenizer"],
        families: &["qwen2", "qwen3"],
        normalizer: Some("NFC"),
        pattern: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ..NAMELESS
    },
];

impl ByteLevel {
    /// By the class of transformers, with or without its `Fast`.
    pub(crate) fn of_class(class: &str) -> Option<&'static ByteLevel> {
        let class = class.strip_suffix("Fast").unwrap_or(class);
        ALL.iter().find(|one| one.classes.contains(&class))
    }

    pub(crate) fn of_family(model_type: &str) -> Option<&'static ByteLevel> {
        ALL.iter().find(|one| one.families.contains(&model_type))
    }

    /// All classes that are known.
    pub(crate) fn classes() -> Vec<&'static str> {
        ALL.iter().flat_map(|one| one.classes).copied().collect()
    }

    /// The entries of a `tokenizer.json` that say how it cuts, and how pieces become text again.
    pub(crate) fn entries(&self, add_prefix_space: bool) -> Value {
        let level = |regex: bool, add_prefix_space: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": regex,
            })
        };
        let mut steps = Vec::new();
        if self.digits {
            steps.push(json!({"type": "Digits", "individual_digits": true}));
        }
        if let Some(pattern) = self.pattern {
            let pattern = json!({"Regex": pattern});
            steps.push(json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false}));
        }
        steps.push(level(self.pattern.is_none(), add_prefix_space));
        json!({
            "normalizer": self.normalizer.map(|name| json!({"type": name})),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": level(true, false),
        })
    }
}
