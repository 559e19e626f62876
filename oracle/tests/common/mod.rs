//! What rows of decoders and of encoders share.

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde_json::Value;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Below 32, which is the smallest vocabulary; 32 of them, which is the shortest context of a decoder, and longer than any window.
pub const IDS: [u32; 32] = [
    0, 17, 5, 29, 11, 3, 23, 8, 30, 14, 2, 26, 19, 7, 17, 5, 29, 11, 3, 23, 8, 30, 1, 31, 9, 9, 20, 4, 13,
    27, 6, 22,
];

/// Of the largest number. f32 rounds at 6e-8; sums in another order have come to 1.4e-6 through two layers (tiny-llama-random,
/// by prefixes), and another processor orders them otherwise. What is not rounding is far above: a window wider by one
/// position is 0.9.
pub const TOLERANCE: f32 = 5e-6;

/// The largest difference, of the largest number.
pub fn apart(what: &str, ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len(), "{what}: how many numbers");
    let largest = ours.iter().fold(0.0, |largest: f32, number| largest.max(number.abs()));
    let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    // `max` would pass over NaN.
    apart.fold(0.0, |most: f32, d| if d.is_nan() { f32::INFINITY } else { most.max(d) }) / largest
}

/// What candle-transformers loads a model from.
pub struct Files {
    pub config: Value,
    pub weights: VarBuilder<'static>,
}

impl Files {
    pub fn open(folder: &str) -> Result<Files> {
        let mut config: Value = serde_json::from_slice(&std::fs::read(format!("{folder}/config.json"))?)?;
        // As transformers 4 wrote it: candle-transformers passes over `rope_parameters`.
        if let Some(rope) = config.get("rope_parameters").cloned() {
            config["rope_theta"] = rope["rope_theta"].clone();
            if rope["rope_type"] != "default" {
                config["rope_scaling"] = rope;
            }
        }
        let weights = std::fs::read(format!("{folder}/model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        Ok(Files { config, weights })
    }
}
