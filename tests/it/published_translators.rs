//! T5 and Opus-MT themselves: what the tests of transformers, and a notebook of TransformerLens, publish of them.
//!
//! They need the models: in the hub's cache or fetched into it, or folders of their names in one that HEADLIGHT_TRANSLATORS names.

use headlight::Result;
use headlight::prelude::*;

fn open(name: &str) -> Model {
    let found =
        std::env::var("HEADLIGHT_TRANSLATORS").map_or(name.into(), |folder| format!("{folder}/{name}"));
    Model::open(&found).unwrap_or_else(|error| {
        panic!(
            "{name} is needed, and cannot be opened. HEADLIGHT_TRANSLATORS names the folder that its own is in.\n{error}"
        )
    })
}

/// `test_small_integration_test` in transformers' `tests/models/t5`; the ids are those of TransformerLens's `demos/T5.ipynb`, where a decoder
/// that is not causal leaves out the second 3.
#[test]
#[ignore = "needs t5-small"]
fn t5_small() -> Result<()> {
    let model = open("t5-small");
    let run = model.run_with_cache(Input::pair("Hello there", "Hi I am"))?;
    let losses = run.loss_per_token()?.to_vec()?;
    let score = -losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
    assert!((score - -19.0845).abs() < 1e-3, "{score}");
    let written = model.translate("translate English to French: Hello, how are you? ", &Search::default())?;
    assert_eq!(written[0].ids(), [21845, 6, 1670, 3, 6738, 18, 3249, 3, 58, 1]);
    Ok(())
}

/// transformers' `tests/models/marian`.
fn translated(name: &str, cases: &[(&str, &str)]) -> Result<()> {
    let model = open(name);
    for (source, target) in cases {
        let written = model.translate(*source, &Search { beams: 2, ..Search::default() })?;
        assert_eq!(written[0].text(), *target, "{source}");
    }
    Ok(())
}

#[test]
#[ignore = "needs opus-mt-en-de"]
fn opus_mt_en_de() -> Result<()> {
    assert_eq!(open("opus-mt-en-de").to_tokens("I am a small frog")?.ids(), [38, 121, 14, 697, 38848, 0]);
    translated(
        "opus-mt-en-de",
        &[
            ("I am a small frog.", "Ich bin ein kleiner Frosch."),
            (
                "Now I can forget the 100 words of german that I know.",
                "Jetzt kann ich die 100 Wörter des Deutschen vergessen, die ich kenne.",
            ),
            ("Tom asked his teacher for advice.", "Tom bat seinen Lehrer um Rat."),
            ("That's how I would do it.", "So würde ich das machen."),
            ("Tom really admired Mary's courage.", "Tom bewunderte Marias Mut wirklich."),
            ("Turn around and close your eyes.", "Drehen Sie sich um und schließen Sie die Augen."),
        ],
    )
}

#[test]
#[ignore = "needs opus-mt-en-fr"]
fn opus_mt_en_fr() -> Result<()> {
    translated("opus-mt-en-fr", &[("I am a small frog.", "Je suis une petite grenouille.")])
}
