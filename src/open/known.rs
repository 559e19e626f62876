//! The models that have a name here: TransformerLens's names for repositories of the Hugging Face hub.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::hub;
use crate::hub::Settings;
use crate::open::built_in::{BUILT_IN, BuiltIn};
use crate::progress::bytes;
use crate::view::{Table, View, Visualize};

/// The files that may hold a model's weights, or say which files do, in the order in which they are taken.
pub(crate) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Names (the first is the usual one), repositories (the first is where it is now), layers, heads, width, millions
/// of parameters.
type Row = (&'static [&'static str], &'static [&'static str], [u32; 4]);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (&["gpt2", "gpt2-small"], &["openai-community/gpt2", "gpt2"], [12, 12, 768, 124]),
    (&["gpt2-medium"], &["openai-community/gpt2-medium", "gpt2-medium"], [24, 16, 1024, 355]),
    (&["gpt2-large"], &["openai-community/gpt2-large", "gpt2-large"], [36, 20, 1280, 774]),
    (&["gpt2-xl"], &["openai-community/gpt2-xl", "gpt2-xl"], [48, 25, 1600, 1558]),
    (&["distilgpt2", "distillgpt2", "distill-gpt2", "distil-gpt2", "gpt2-xs"], &["distilbert/distilgpt2", "distilgpt2"], [6, 12, 768, 82]),
    (&["stanford-gpt2-small-a", "alias-gpt2-small-x21"], &["stanford-crfm/alias-gpt2-small-x21"], [12, 12, 768, 124]),
    (&["cerebras-gpt-111m"], &["cerebras/Cerebras-GPT-111M"], [10, 12, 768, 111]),
    (&["cerebras-gpt-256m"], &["cerebras/Cerebras-GPT-256M"], [14, 17, 1088, 256]),
    (&["cerebras-gpt-590m"], &["cerebras/Cerebras-GPT-590M"], [18, 12, 1536, 590]),
    (&["cerebras-gpt-1.3b"], &["cerebras/Cerebras-GPT-1.3B"], [24, 16, 2048, 1316]),
    (&["cerebras-gpt-2.7b"], &["cerebras/Cerebras-GPT-2.7B"], [32, 32, 2560, 2652]),
    (&["cerebras-gpt-6.7b"], &["cerebras/Cerebras-GPT-6.7B"], [32, 32, 4096, 6658]),
    (&["cerebras-gpt-13b"], &["cerebras/Cerebras-GPT-13B"], [40, 40, 5120, 12853]),
    (&["gpt-neo-125m", "gpt-neo-small", "neo-small", "neo"], &["EleutherAI/gpt-neo-125m", "EleutherAI/gpt-neo-125M"], [12, 12, 768, 125]),
    (&["gpt-neo-1.3b", "gpt-neo-medium", "neo-medium"], &["EleutherAI/gpt-neo-1.3B"], [24, 16, 2048, 1316]),
    (&["gpt-neo-2.7b", "gpt-neo-large", "neo-large"], &["EleutherAI/gpt-neo-2.7B"], [32, 20, 2560, 2651]),
    (&["gpt-j-6b", "gpt-j", "gptj"], &["EleutherAI/gpt-j-6b", "EleutherAI/gpt-j-6B"], [28, 16, 4096, 6051]),
    (&["gpt-neox-20b", "gpt-neox", "neox"], &["EleutherAI/gpt-neox-20b"], [44, 64, 6144, 20554]),
    (&["pythia-14m"], &["EleutherAI/pythia-14m"], [6, 4, 128, 14]),
    (&["pythia-31m"], &["EleutherAI/pythia-31m"], [6, 8, 256, 31]),
    (&["pythia-70m", "pythia", "pythia-19m"], &["EleutherAI/pythia-70m"], [6, 8, 512, 70]),
    (&["pythia-160m", "pythia-125m"], &["EleutherAI/pythia-160m"], [12, 12, 768, 162]),
    (&["pythia-410m", "pythia-350m"], &["EleutherAI/pythia-410m"], [24, 16, 1024, 405]),
    (&["pythia-1b", "pythia-800m"], &["EleutherAI/pythia-1b"], [16, 8, 2048, 1012]),
    (&["pythia-1.4b", "pythia-1.3b"], &["EleutherAI/pythia-1.4b"], [24, 16, 2048, 1415]),
    (&["pythia-2.8b", "pythia-2.7b"], &["EleutherAI/pythia-2.8b"], [32, 32, 2560, 2775]),
    (&["pythia-6.9b", "pythia-6.7b"], &["EleutherAI/pythia-6.9b"], [32, 32, 4096, 6857]),
    (&["pythia-12b", "pythia-13b"], &["EleutherAI/pythia-12b"], [36, 40, 5120, 11846]),
    (&["pythia-70m-deduped", "pythia-19m-deduped"], &["EleutherAI/pythia-70m-deduped"], [6, 8, 512, 70]),
    (&["pythia-160m-deduped", "pythia-125m-deduped"], &["EleutherAI/pythia-160m-deduped"], [12, 12, 768, 162]),
    (&["pythia-410m-deduped", "pythia-350m-deduped"], &["EleutherAI/pythia-410m-deduped"], [24, 16, 1024, 405]),
    (&["pythia-1b-deduped", "pythia-800m-deduped"], &["EleutherAI/pythia-1b-deduped"], [16, 8, 2048, 1012]),
    (&["pythia-1.4b-deduped", "pythia-1.3b-deduped"], &["EleutherAI/pythia-1.4b-deduped"], [24, 16, 2048, 1415]),
    (&["tiny-stories-1m"], &["roneneldan/TinyStories-1M"], [8, 16, 64, 4]),
    (&["tiny-stories-3m"], &["roneneldan/TinyStories-3M"], [8, 16, 128, 8]),
    (&["tiny-stories-8m"], &["roneneldan/TinyStories-8M"], [8, 16, 256, 20]),
    (&["tiny-stories-28m"], &["roneneldan/TinyStories-28M"], [8, 16, 512, 52]),
    (&["tiny-stories-33m"], &["roneneldan/TinyStories-33M"], [4, 16, 768, 69]),
    (&["tiny-stories-1l-21m"], &["roneneldan/TinyStories-1Layer-21M"], [1, 16, 1024, 66]),
    (&["tiny-stories-2l-33m"], &["roneneldan/TinyStories-2Layers-33M"], [2, 16, 1024, 79]),
    (&["smollm2-135m"], &["HuggingFaceTB/SmolLM2-135M"], [30, 9, 576, 135]),
    (&["smollm2-135m-instruct"], &["HuggingFaceTB/SmolLM2-135M-Instruct"], [30, 9, 576, 135]),
    (&["smollm2-360m"], &["HuggingFaceTB/SmolLM2-360M"], [32, 15, 960, 362]),
    (&["smollm2-360m-instruct"], &["HuggingFaceTB/SmolLM2-360M-Instruct"], [32, 15, 960, 362]),
    (&["smollm2-1.7b"], &["HuggingFaceTB/SmolLM2-1.7B"], [24, 32, 2048, 1711]),
    (&["llama-2-7b", "llama-2-7b-hf"], &["meta-llama/Llama-2-7b-hf"], [32, 32, 4096, 6738]),
    (&["llama-2-7b-chat"], &["meta-llama/Llama-2-7b-chat-hf"], [32, 32, 4096, 6738]),
    (&["llama-2-13b", "llama-2-13b-hf"], &["meta-llama/Llama-2-13b-hf"], [40, 40, 5120, 13016]),
    (&["llama-3-8b", "meta-llama-3-8b"], &["meta-llama/Meta-Llama-3-8B"], [32, 32, 4096, 8030]),
    (&["llama-3.2-1b"], &["meta-llama/Llama-3.2-1B"], [16, 32, 2048, 1236]),
    (&["llama-3.2-1b-instruct"], &["meta-llama/Llama-3.2-1B-Instruct"], [16, 32, 2048, 1236]),
    (&["llama-3.2-3b"], &["meta-llama/Llama-3.2-3B"], [28, 24, 3072, 3213]),
    (&["mistral-7b", "mistral-7b-v0.1"], &["mistralai/Mistral-7B-v0.1"], [32, 32, 4096, 7242]),
    (&["mistral-7b-instruct"], &["mistralai/Mistral-7B-Instruct-v0.1"], [32, 32, 4096, 7242]),
    (&["qwen2-0.5b"], &["Qwen/Qwen2-0.5B"], [24, 14, 896, 494]),
    (&["qwen2-0.5b-instruct"], &["Qwen/Qwen2-0.5B-Instruct"], [24, 14, 896, 494]),
    (&["qwen2-1.5b"], &["Qwen/Qwen2-1.5B"], [28, 12, 1536, 1544]),
    (&["qwen2.5-0.5b"], &["Qwen/Qwen2.5-0.5B"], [24, 14, 896, 494]),
    (&["qwen2.5-0.5b-instruct"], &["Qwen/Qwen2.5-0.5B-Instruct"], [24, 14, 896, 494]),
    (&["qwen2.5-1.5b"], &["Qwen/Qwen2.5-1.5B"], [28, 12, 1536, 1544]),
    (&["qwen2.5-3b"], &["Qwen/Qwen2.5-3B"], [36, 16, 2048, 3086]),
    (&["qwen2.5-7b"], &["Qwen/Qwen2.5-7B"], [28, 28, 3584, 7616]),
    (&["qwen3-0.6b"], &["Qwen/Qwen3-0.6B"], [28, 16, 1024, 596]),
    (&["qwen3-0.6b-base"], &["Qwen/Qwen3-0.6B-Base"], [28, 16, 1024, 596]),
    (&["qwen3-1.7b"], &["Qwen/Qwen3-1.7B"], [28, 16, 2048, 1721]),
    (&["qwen3-4b"], &["Qwen/Qwen3-4B"], [36, 32, 2560, 4022]),
    (&["qwen3-8b"], &["Qwen/Qwen3-8B"], [36, 32, 4096, 8191]),
    (&["bert-base-uncased"], &["google-bert/bert-base-uncased", "bert-base-uncased"], [12, 12, 768, 110]),
    (&["bert-base-cased"], &["google-bert/bert-base-cased", "bert-base-cased"], [12, 12, 768, 108]),
    (&["bert-large-uncased"], &["google-bert/bert-large-uncased", "bert-large-uncased"], [24, 16, 1024, 335]),
    (&["bert-large-cased"], &["google-bert/bert-large-cased", "bert-large-cased"], [24, 16, 1024, 334]),
    (&["distilbert-base-uncased"], &["distilbert/distilbert-base-uncased", "distilbert-base-uncased"], [6, 12, 768, 67]),
    (&["distilbert-base-uncased-finetuned-sst-2-english"], &["distilbert/distilbert-base-uncased-finetuned-sst-2-english", "distilbert-base-uncased-finetuned-sst-2-english"], [6, 12, 768, 67]),
    (&["roberta-base"], &["FacebookAI/roberta-base", "roberta-base"], [12, 12, 768, 125]),
    (&["roberta-large"], &["FacebookAI/roberta-large", "roberta-large"], [24, 16, 1024, 355]),
    (&["roberta-large-mnli"], &["FacebookAI/roberta-large-mnli", "roberta-large-mnli"], [24, 16, 1024, 356]),
    (&["all-minilm-l6-v2"], &["sentence-transformers/all-MiniLM-L6-v2"], [6, 12, 384, 23]),
    (&["t5-small"], &["google-t5/t5-small", "t5-small"], [6, 8, 512, 61]),
    (&["t5-base"], &["google-t5/t5-base", "t5-base"], [12, 12, 768, 223]),
    (&["t5-large"], &["google-t5/t5-large", "t5-large"], [24, 16, 1024, 738]),
    (&["flan-t5-small"], &["google/flan-t5-small"], [8, 6, 512, 77]),
    (&["flan-t5-base"], &["google/flan-t5-base"], [12, 12, 768, 248]),
    (&["flan-t5-large"], &["google/flan-t5-large"], [24, 16, 1024, 783]),
    (&["mt5-small"], &["google/mt5-small"], [8, 6, 512, 300]),
    (&["bart-base"], &["facebook/bart-base"], [6, 12, 768, 139]),
    (&["bart-large"], &["facebook/bart-large"], [12, 16, 1024, 406]),
    (&["bart-large-cnn"], &["facebook/bart-large-cnn"], [12, 16, 1024, 406]),
    (&["opus-mt-en-fr"], &["Helsinki-NLP/opus-mt-en-fr"], [6, 8, 512, 75]),
    (&["opus-mt-fr-en"], &["Helsinki-NLP/opus-mt-fr-en"], [6, 8, 512, 75]),
    (&["opus-mt-en-de"], &["Helsinki-NLP/opus-mt-en-de"], [6, 8, 512, 74]),
    (&["opus-mt-de-en"], &["Helsinki-NLP/opus-mt-de-en"], [6, 8, 512, 74]),
    (&["opus-mt-en-es"], &["Helsinki-NLP/opus-mt-en-es"], [6, 8, 512, 78]),
    (&["opus-mt-es-en"], &["Helsinki-NLP/opus-mt-es-en"], [6, 8, 512, 78]),
    (&["opus-mt-en-ru"], &["Helsinki-NLP/opus-mt-en-ru"], [6, 8, 512, 76]),
    (&["opus-mt-ru-en"], &["Helsinki-NLP/opus-mt-ru-en"], [6, 8, 512, 76]),
    (&["opus-mt-en-zh"], &["Helsinki-NLP/opus-mt-en-zh"], [6, 8, 512, 78]),
    (&["opus-mt-zh-en"], &["Helsinki-NLP/opus-mt-zh-en"], [6, 8, 512, 78]),
];

/// The repositories of a name, the one of now first. Case does not matter.
pub(crate) fn repositories(name: &str) -> Option<&'static [&'static str]> {
    let is_it = |known: &&'static str| known.eq_ignore_ascii_case(name);
    TABLE.iter().find(|(names, repos, _)| names.iter().chain(*repos).any(is_it)).map(|row| row.1)
}

/// Every name that opens a model.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|own| own.name).chain(TABLE.iter().flat_map(|(names, ..)| names.iter().copied()))
}

/// A model that [`Model::open`](crate::Model::open) knows by name, or that is in the hub's cache.
#[derive(Clone, Debug)]
pub struct KnownModel {
    /// The names it opens by; the first is the usual one.
    pub names: Vec<String>,
    /// `owner/name` on the Hugging Face hub; nothing for the built-in model.
    pub repository: Option<String>,
    /// Layers, heads in each, and the width of the residual stream; nothing where the cache alone knows it.
    pub sizes: Option<[usize; 3]>,
    /// Millions of parameters.
    pub millions: Option<f64>,
    /// Where its files are, if they are in the cache.
    pub cached: Option<PathBuf>,
    /// How many bytes of it are in the cache.
    pub cached_bytes: u64,
}

/// All models that have a name here, then what else the hub's cache holds.
#[derive(Clone, Debug)]
pub struct KnownModels(Vec<KnownModel>);

impl KnownModels {
    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, KnownModel> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a KnownModels {
    type Item = &'a KnownModel;
    type IntoIter = std::slice::Iter<'a, KnownModel>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The models that [`Model::open`](crate::Model::open) knows by name, and which of them are in the hub's cache
/// already. Nothing is fetched.
///
/// ```
/// let models = headlight::known_models()?;
/// assert!(models.iter().any(|model| model.names[0] == "gpt2"));
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn known_models() -> Result<KnownModels> {
    let settings = Settings::from_env()?;
    let own = |own: &BuiltIn| KnownModel {
        names: vec![own.name.to_string()],
        repository: None,
        sizes: Some(own.sizes),
        millions: Some(own.millions),
        cached: None,
        cached_bytes: 0,
    };
    let mut all: Vec<KnownModel> = BUILT_IN.iter().map(own).collect();
    for (names, repositories, [layers, heads, width, millions]) in TABLE {
        let cached = repositories.iter().find_map(|repo| whole_snapshot(&settings, repo));
        all.push(KnownModel {
            names: names.iter().map(|name| name.to_string()).collect(),
            repository: repositories.first().map(|repo| repo.to_string()),
            sizes: Some([*layers, *heads, *width].map(|size| size as usize)),
            millions: Some((*millions).into()),
            cached_bytes: cached.as_deref().map_or(0, size_of),
            cached,
        });
    }
    // A cache that is not there holds nothing.
    let folders = fs::read_dir(&settings.cache).into_iter().flatten().flatten();
    let mut others: Vec<String> = folders
        .filter_map(|entry| {
            Some(entry.file_name().to_str()?.strip_prefix("models--")?.replacen("--", "/", 1))
        })
        .filter(|repo| hub::is_repo(repo) && repositories(repo).is_none())
        .collect();
    others.sort();
    for repo in others {
        if let Some(snapshot) = whole_snapshot(&settings, &repo) {
            all.push(KnownModel {
                names: vec![repo.clone()],
                repository: Some(repo),
                sizes: None,
                millions: None,
                cached_bytes: size_of(&snapshot),
                cached: Some(snapshot),
            });
        }
    }
    Ok(KnownModels(all))
}

/// A snapshot with a config and weights.
fn whole_snapshot(settings: &Settings, repo: &str) -> Option<PathBuf> {
    let snapshot = hub::snapshot(settings, repo)?;
    let has = |file: &str| snapshot.join(file).is_file();
    let weights = WEIGHTS.iter().any(|file| has(file));
    (has("config.json") && weights).then_some(snapshot)
}

fn size_of(snapshot: &Path) -> u64 {
    let files = fs::read_dir(snapshot).into_iter().flatten().flatten();
    files.filter_map(|file| Some(fs::metadata(file.path()).ok()?.len())).sum()
}

impl Visualize for KnownModels {
    fn views(&self) -> Result<Vec<View>> {
        let columns =
            ["name", "also", "layers", "heads", "width", "parameters", "in memory", "repository", "cached"];
        let mut table = Table::new("models that open by name", columns);
        for model in &self.0 {
            let size = |index: usize| model.sizes.map_or("·".into(), |sizes| sizes[index].to_string());
            let name = model.names.first().cloned().unwrap_or_default();
            table.push([
                name,
                model.names.get(1..).unwrap_or_default().join(", "),
                size(0),
                size(1),
                size(2),
                model.millions.map_or("·".into(), parameters),
                model.millions.map_or("·".into(), |millions| bytes(millions * 4e6)),
                model.repository.clone().unwrap_or_else(|| "part of headlight".into()),
                match model.cached {
                    Some(_) => bytes(model.cached_bytes as f64),
                    None => "·".into(),
                },
            ]);
        }
        Ok(vec![View::Table(table)])
    }
}

fn parameters(millions: f64) -> String {
    match millions {
        few if few < 10.0 => format!("{few:.1}M"),
        many if many < 1000.0 => format!("{many:.0}M"),
        many => format!("{:.1}B", many / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_sound() {
        let mut seen = BTreeSet::new();
        for (names, repos, [_, heads, width, _]) in TABLE {
            assert!(names.iter().all(|name| seen.insert(name.to_lowercase())), "{names:?}");
            assert!(repos.iter().all(|repo| hub::is_repo(repo)) && repos[0].contains('/'), "{repos:?}");
            assert!(
                width.is_multiple_of(*heads) || ["qwen3", "t5"].iter().any(|of| names[0].contains(of)),
                "{names:?}"
            );
        }
        let repo = |name| repositories(name).map(|repos| repos[0]);
        assert_eq!(repo("GPT2-small"), Some("openai-community/gpt2"));
        assert_eq!(repo("gpt2"), repo("openai-community/gpt2"));
        assert_eq!(repo("eleutherai/pythia-70m"), Some("EleutherAI/pythia-70m"));
        assert_eq!(repo("gpt3"), None);
    }
}
