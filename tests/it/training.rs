//! Training in a notebook: it learns, repeats itself exactly, goes on where it was, and says what is wrong.

use headlight::prelude::*;
use headlight::training::{ClassifierTraining, FolderOptions};
use headlight::{ErrorKind, Result};

use crate::common::folder::Folder;
use crate::common::refused;

fn small() -> TrainingOptions {
    TrainingOptions {
        d_model: 32,
        d_mlp: 32,
        d_vocab: 64,
        n_ctx: 32,
        batch: 4,
        deviation: 0.02,
        learning_rate: 7e-3,
        evaluate_every: 10,
        ..TrainingOptions::default()
    }
}

/// One number for each weight: as many digits as there are.
fn weights(training: &Training) -> Result<Vec<Vec<f32>>> {
    training.weights()?.values().map(|tensor| Ok(tensor.flatten_all()?.to_vec1()?)).collect()
}

#[test]
fn the_same_seed_gives_the_same_training() -> Result<()> {
    let (mut one, mut other) = (Training::new(&small())?, Training::new(&small())?);
    one.run(10)?;
    (0..10).try_for_each(|_| other.run(1))?;
    assert_eq!(one.curve(), other.curve());
    assert_eq!(weights(&one)?, weights(&other)?);
    let mut third = Training::new(&TrainingOptions { seed: 1, ..small() })?;
    third.run(10)?;
    assert_ne!(one.curve(), third.curve());
    Ok(())
}

#[test]
fn what_is_saved_goes_on_as_if_nothing_had_been() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let mut whole = Training::new(&small())?;
    whole.run(7)?;
    whole.save(&path)?;
    whole.run(5)?;
    let mut resumed = Training::new(&small())?;
    resumed.resume(&path)?;
    assert_eq!(resumed.steps(), 7);
    resumed.run(5)?;
    assert_eq!(whole.curve(), resumed.curve());
    assert_eq!(weights(&whole)?, weights(&resumed)?);

    let mut wider = Training::new(&TrainingOptions { d_model: 64, ..small() })?;
    assert_eq!(wider.resume(&path).unwrap_err().kind(), ErrorKind::Weights);
    assert_eq!(wider.steps(), 0);
    let error = wider.resume("assets/built-in/model.safetensors").unwrap_err();
    assert!(error.to_string().contains("Training::save"), "{error}");
    Ok(())
}

#[test]
fn the_loss_falls_with_two_layers_and_with_one() -> Result<()> {
    for n_layers in [1, 2] {
        let mut training = Training::new(&TrainingOptions { n_layers, ..small() })?;
        let counting: Vec<u32> = (0..33).collect();
        let before = training.step_on(std::slice::from_ref(&counting))?;
        for _ in 0..40 {
            training.step_on(std::slice::from_ref(&counting))?;
        }
        let after = training.model()?.loss(counting[..32].to_vec())?;
        assert!((before - 64f32.ln()).abs() < 0.1, "{before}");
        assert!(after < 0.5 * before, "{before} to {after}");
    }
    Ok(())
}

#[test]
fn the_model_is_a_model_and_training_on_does_not_change_it() -> Result<()> {
    let mut training = Training::new(&small())?;
    training.run(3)?;
    let model = training.model()?;
    assert_eq!((model.name(), model.bos()), ("trained, step 3", Some(0)));
    let ids = vec![0, 5, 6, 7, 5, 6, 7];
    let loss = model.loss(&ids)?;
    training.run(3)?;
    assert_eq!(model.loss(&ids)?, loss);
    assert_ne!(training.model()?.loss(&ids)?, loss);
    assert_eq!(induction_scores(&model)?.values().shape(), [2, 4]);
    model.ablate(head(1, 0), Ablation::Zero)?.loss(&ids)?;
    model.folded()?.loss(&ids)?;
    assert!(model.loss("text").unwrap_err().to_string().contains("token ids"));
    Ok(())
}

/// The curve says what the analyses say.
#[test]
fn the_curve_agrees_with_the_analyses() -> Result<()> {
    let mut training = Training::new(&small())?;
    training.run(10)?;
    let (model, point) = (training.model()?, training.curve().at(10)?.clone());
    let repeated = RepeatedTokens { length: 15, batch: 16, seed: u64::MAX };
    let loss = loss_on_repeats(&model, &repeated)?;
    assert!((loss.first_copy()? - point.loss_first_copy).abs() < 1e-4);
    assert!((loss.second_copy()? - point.loss_second_copy).abs() < 1e-4);
    let score = point.loss_second_copy - point.loss_first_copy;
    assert!((point.in_context_learning_score - score).abs() < 2e-4);
    let kinds = [HeadKind::Induction, HeadKind::PreviousToken];
    for (scores, ours) in
        head_scores(&model, &kinds, &repeated)?.iter().zip([point.induction, point.previous_token])
    {
        for (score, ours) in scores.values().to_vec()?.iter().zip(ours.iter().flatten()) {
            assert!((score - ours).abs() < 1e-4, "{score}, not {ours}");
        }
    }
    Ok(())
}

#[test]
fn options_that_cannot_be_say_why() {
    type Change = fn(&mut TrainingOptions);
    let cases: [(Change, &[&str]); 12] = [
        (|o| o.n_layers = 0, &["n_layers = 0", "at least 1"]),
        (|o| o.n_heads = 0, &["n_heads = 0", "at least 1"]),
        (|o| o.n_heads = 5, &["d_model = 32", "n_heads = 5", "d_model = 35"]),
        (|o| o.d_vocab = 3, &["d_vocab = 3", "at least 9"]),
        (|o| o.n_ctx = 8, &["n_ctx = 8", "said twice"]),
        (|o| o.batch = 0, &["batch = 0"]),
        (|o| o.evaluate_every = 0, &["evaluate_every = 0"]),
        (|o| o.learning_rate = f64::NAN, &["learning_rate = NaN", "small positive"]),
        (|o| o.deviation = 0.0, &["deviation = 0", "small positive"]),
        (|o| o.d_model = 1 << 40, &["weights", "smaller"]),
        (|o| o.batch = usize::MAX, &["numbers in one tensor", "smaller"]),
        (|o| o.steps = 0, &["steps = 0"]),
    ];
    for (change, fragments) in cases {
        let mut options = small();
        change(&mut options);
        let error = Training::new(&options).err().expect("bad options").to_string();
        assert!(fragments.iter().all(|fragment| error.contains(fragment)), "{error}");
    }
}

#[test]
fn sequences_that_cannot_be_trained_on_say_why() -> Result<()> {
    let mut training = Training::new(&small())?;
    let cases: [(Vec<Vec<u32>>, &str); 5] = [
        (vec![], "at least one"),
        (vec![vec![1]], "2 to 33"),
        (vec![vec![1; 34]], "2 to 33"),
        (vec![vec![1; 5], vec![1; 6]], "one length"),
        (vec![vec![1, 64]], "0 to 63"),
    ];
    for (sequences, fragment) in cases {
        let error = training.step_on(&sequences).unwrap_err().to_string();
        assert!(error.contains(fragment), "{error}");
    }
    assert_eq!(training.steps(), 0);
    let mut wild = Training::new(&TrainingOptions { learning_rate: 1e30, warm_up: 0, ..small() })?;
    let error = wild.run(10).unwrap_err().to_string();
    assert!(error.contains("diverged") && error.contains("learning_rate"), "{error}");
    Ok(())
}

#[test]
fn the_built_in_models_curve_is_read_whole() -> Result<()> {
    let curve = TrainingCurve::built_in()?;
    assert_eq!(curve.points().len(), 100);
    assert_eq!(curve.phase_change(), Some(2000..=2400));
    assert_eq!(curve.losses()?.shape(), [3, 100]);
    assert_eq!(curve.induction()?.shape(), [16, 100]);
    assert_eq!(curve.induction()?.axes()[0].label(8), "L1H0");
    assert_eq!(curve.in_context_learning()?.shape(), [100]);
    assert_eq!(TrainingCurve::from_json(&curve.to_json()?)?, curve);
    let error = curve.at(2001).unwrap_err().to_string();
    assert!(error.contains("2000"), "{error}");
    assert!(curve.figure()?.to_svg().contains("L0H5"));
    Ok(())
}

#[test]
fn a_curve_that_cannot_be_read_says_so() {
    let point = |step: usize, heads: &str| {
        format!(
            "{{\"step\":{step},\"loss_first_copy\":4,\"loss_second_copy\":4,\"in_context_learning_score\":0,\
             \"induction\":{heads},\"previous_token\":{heads}}}"
        )
    };
    let cases = [
        ("{".to_string(), "not a training curve"),
        ("[]".to_string(), "no points"),
        (format!("[{}]", point(0, "[[]]")), "no points"),
        (format!("[{},{}]", point(0, "[[0.5]]"), point(1, "[[0.5],[0.1]]")), "the same heads"),
        (format!("[{},{}]", point(5, "[[0.5]]"), point(5, "[[0.5]]")), "step 5 after step 5"),
    ];
    for (text, fragment) in cases {
        let error = TrainingCurve::from_json(&text).unwrap_err().to_string();
        assert!(error.contains(fragment), "{error}");
    }
}

/// A fall that is spread evenly, one that is steep, and one that is too small, made by hand.
#[test]
fn a_phase_change_is_where_the_loss_falls_most() -> Result<()> {
    let curve = |losses: &[f32]| {
        let points: Vec<String> = (losses.iter().enumerate())
            .map(|(i, loss)| {
                format!(
                    "{{\"step\":{},\"loss_first_copy\":4,\"loss_second_copy\":{loss},\"in_context_learning_score\":0,\
                     \"induction\":[[0]],\"previous_token\":[[0]]}}",
                    10 * i
                )
            })
            .collect();
        TrainingCurve::from_json(&format!("[{}]", points.join(",")))
    };
    assert_eq!(curve(&[4.0, 3.9, 3.9, 2.0, 0.4, 0.3, 0.2])?.phase_change(), Some(20..=40));
    assert_eq!(curve(&[4.0, 4.0, 0.0, 0.0])?.phase_change(), Some(10..=20));
    assert_eq!(curve(&[4.0, 3.5, 3.0, 2.5])?.phase_change(), None);
    assert_eq!(curve(&[4.0])?.phase_change(), None);
    Ok(())
}

#[test]
fn random_weights_are_gpt_2s_beginning() -> Result<()> {
    let trained = Model::open("built-in")?;
    let untrained = trained.with_random_weights(7)?;
    assert_eq!(untrained.name(), "built-in, random weights");
    assert_eq!((untrained.dims(), untrained.bos()), (trained.dims(), trained.bos()));
    let deviation = |name: &str| -> Result<f32> {
        let values = untrained.weight(name)?.to_vec()?;
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        Ok((values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt())
    };
    // 25,600 numbers or more: the deviation of the deviation is below half a per cent.
    for name in ["W_E", "W_pos", "blocks.0.attn.W_Q", "blocks.1.mlp.W_in"] {
        assert!((deviation(name)? / 0.02 - 1.0).abs() < 0.03, "{name}: {}", deviation(name)?);
    }
    for name in ["blocks.0.attn.W_O", "blocks.1.mlp.W_out"] {
        assert!((deviation(name)? / 0.01 - 1.0).abs() < 0.03, "{name}: {}", deviation(name)?);
    }
    assert!(untrained.weight("ln_final.w")?.to_vec()?.iter().all(|&gain| gain == 1.0));
    assert!(untrained.weight("blocks.0.mlp.b_in")?.to_vec()?.iter().all(|&bias| bias == 0.0));

    let text = "the cat sat";
    assert_eq!(trained.with_random_weights(7)?.loss(text)?, untrained.loss(text)?);
    assert_ne!(trained.with_random_weights(8)?.loss(text)?, untrained.loss(text)?);
    let from_folded = trained.folded()?.with_random_weights(7)?;
    assert_eq!((from_folded.name(), from_folded.loss(text)?), (untrained.name(), untrained.loss(text)?));
    let error = trained.ablate(head(1, 0), Ablation::Zero)?.with_random_weights(0).unwrap_err().to_string();
    assert!(error.contains("L1H0") && error.contains("then edit"), "{error}");
    Ok(())
}

/// The built-in classifier's config and tokenizer, narrower, without weights.
fn classifier_folder() -> Folder {
    let folder = Folder::new();
    let from = |file: &str| format!("{}/assets/built-in-sentiment/{file}", env!("CARGO_MANIFEST_DIR"));
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from(file), folder.path(file)).expect("a copy");
    }
    let text = std::fs::read(from("config.json")).expect("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    for (entry, size) in [("hidden_size", 16), ("intermediate_size", 16), ("num_hidden_layers", 1)] {
        config[entry] = size.into();
    }
    std::fs::write(folder.path("config.json"), config.to_string()).expect("config.json");
    folder
}

const REVIEWS: [(&str, &str); 4] = [
    ("the film was good", "positive"),
    ("the plot was superb, and i loved it", "positive"),
    ("the film was bad", "negative"),
    ("i hated the dull plot", "negative"),
];

#[test]
fn a_classifier_learns_and_goes_on_where_it_was() -> Result<()> {
    let folder = classifier_folder();
    let options = FolderOptions {
        steps: 60,
        warm_up: 5,
        learning_rate: 1e-2,
        deviation: 0.1,
        ..FolderOptions::default()
    };
    let mut training = ClassifierTraining::new(folder.name(), &options)?;
    let first = training.step_on(&REVIEWS)?;
    // Drawn anew, it knows nothing: ln 2.
    assert!((first - std::f32::consts::LN_2).abs() < 0.3, "{first}");
    for _ in 1..30 {
        training.step_on(&REVIEWS)?;
    }
    let state = folder.path("state.safetensors");
    training.save(&state)?;
    let rest = |training: &mut ClassifierTraining| -> Result<Vec<f32>> {
        (30..60).map(|_| training.step_on(&REVIEWS)).collect()
    };
    let losses = rest(&mut training)?;
    assert!(losses[29] < 0.1, "{losses:?}");
    let mut resumed = ClassifierTraining::new(folder.name(), &options)?;
    resumed.resume(&state)?;
    assert_eq!(resumed.steps(), 30);
    assert_eq!(rest(&mut resumed)?, losses);
    // What it writes is the folder of a model.
    let texts = REVIEWS.map(|(text, _)| text);
    let own = training.model()?.classify(texts)?;
    assert_eq!(own.best()?, REVIEWS.map(|(_, class)| class));
    let weights = training.weights()?;
    assert!(weights.contains_key("bert.encoder.layer.0.attention.self.query.weight"));
    let weights: std::collections::HashMap<_, _> = weights.into_iter().collect();
    candle_core::safetensors::save(&weights, folder.path("model.safetensors"))?;
    let opened = Model::open(folder.name())?.classify(texts)?;
    assert_eq!(opened.values().to_vec()?, own.values().to_vec()?);
    Ok(())
}

#[test]
fn what_trains_no_classifier_says_why() -> Result<()> {
    let folder = classifier_folder();
    let options = FolderOptions::default();
    let mut training = ClassifierTraining::new(folder.name(), &options)?;
    let none = FolderOptions { steps: 0, ..options };
    let decoder = Folder::copy_of("tiny-gpt2-random");
    let no_text: [(&str, &str); 0] = [];
    let of = |outcome: Result<ClassifierTraining>| outcome.map(drop);
    refused(vec![
        ("no steps", of(ClassifierTraining::new(folder.name(), &none)), ErrorKind::Config, &["steps: 0"]),
        ("a decoder", of(ClassifierTraining::new(decoder.name(), &options)), ErrorKind::Address, &["class"]),
        (
            "no class",
            training.step_on(&[("a film", "joyful")]).map(drop),
            ErrorKind::Input,
            &["\"negative\""],
        ),
        ("no texts", training.step_on(&no_text).map(drop), ErrorKind::Input, &["0 sequences"]),
        (
            "no token",
            training.step_on_tokens(&[(vec![7000], "negative")]).map(drop),
            ErrorKind::Input,
            &["7000"],
        ),
    ]);
    // It is as it was.
    assert_eq!(training.steps(), 0);
    Ok(())
}
