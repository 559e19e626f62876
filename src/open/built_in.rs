//! The models that are part of this crate.

/// One of them: its files, as Hugging Face lays them out.
pub(crate) struct BuiltIn {
    pub(crate) name: &'static str,
    pub(crate) weights: &'static [u8],
    pub(crate) config: &'static str,
    pub(crate) tokenizer: &'static [u8],
    /// `generation_config.json`, where it writes translations.
    pub(crate) generation: Option<&'static str>,
    /// Layers, heads in each, and the width of the residual stream.
    pub(crate) sizes: [usize; 3],
    /// Millions of weights.
    pub(crate) millions: f64,
}

macro_rules! built_in {
    ($name:literal, $sizes:expr, $millions:expr) => {
        built_in!($name, $sizes, $millions, None)
    };
    ($name:literal, $sizes:expr, $millions:expr, $generation:expr) => {
        BuiltIn {
            name: $name,
            weights: include_bytes!(concat!("../../assets/", $name, "/model.safetensors")),
            config: include_str!(concat!("../../assets/", $name, "/config.json")),
            tokenizer: include_bytes!(concat!("../../assets/", $name, "/tokenizer.json")),
            generation: $generation,
            sizes: $sizes,
            millions: $millions,
        }
    };
}

/// How the translator writes.
const OF_TRANSLATOR: Option<&str> =
    Some(include_str!("../../assets/built-in-translator/generation_config.json"));

pub(crate) static BUILT_IN: [BuiltIn; 3] = [
    built_in!("built-in", [2, 8, 160], 0.99),
    built_in!("built-in-sentiment", [2, 4, 64], 0.09),
    built_in!("built-in-translator", [2, 4, 128], 0.75, OF_TRANSLATOR),
];
