//! Long work stops when asked. What asks is shared by the whole process, so there is one test at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use headlight::analysis::*;
use headlight::analysis::{DetectHeadOptions, HeadKind, RepeatedTokens};
use headlight::prelude::*;
use headlight::{Error, ErrorKind, Result, clear_stop, request_stop};

static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does work again and again until a request that comes soon after the start stops it.
fn stopped(what: &str, mut work: impl FnMut() -> Result<()>) -> Error {
    clear_stop();
    let asks = thread::spawn(|| {
        thread::sleep(Duration::from_millis(30));
        request_stop();
    });
    let started = Instant::now();
    let error = loop {
        match work() {
            Err(error) => break error,
            Ok(()) => assert!(started.elapsed() < Duration::from_secs(60), "{what} does not stop"),
        }
    };
    asks.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Stopped, "{what}: {error}");
    let text = error.to_string();
    for fragment in ["was stopped", "nothing else is lost"] {
        assert!(text.contains(fragment), "{what}: no `{fragment}` in: {text}");
    }
    work().unwrap_or_else(|error| panic!("{what}, once more: {error}"));
    error
}

#[test]
fn all_long_work_stops() -> Result<()> {
    let _alone = alone();
    let model = Model::open("built-in")?;
    let text = "the quick brown fox jumps over the quick brown fox";
    let run = model.run_with_cache([text, text])?;
    let one = run.item(0)?;
    let metric = Metric::log_prob(&model, " fox")?;
    let repeated = RepeatedTokens { batch: 4, ..RepeatedTokens::for_model(&model) };
    let (clean, corrupted) = ("the cat sat the cat", "the cat sat the dog");
    let circuit = ov_circuit(&model, head(1, 0))?;
    let heads = [head(1, 0), head(1, 1)];
    let custom = Metric::custom("the first logit", |logits| Ok(logits.to_vec()?[0]));
    let options = TrainingOptions { d_model: 32, n_ctx: 32, batch: 4, ..TrainingOptions::default() };
    let mut training = Training::new(&options)?;
    let path = std::env::temp_dir().join(format!("headlight-stopping-{}.part", std::process::id()));
    let mut works: Vec<(&str, Work)> = Vec::new();
    macro_rules! works {
        ($($what:literal: $call:expr;)*) => {$(works.push(($what, Box::new(|| $call.map(drop))));)*};
    }
    works! {
        "run_with_cache": model.run_with_cache(text);
        "loss": model.loss(text);
        "loss of a run": run.loss();
        "test_prompt": model.test_prompt(text, " jumps");
        "generate": model.generate("the", &Sampling::default());
        "run_with_tap": model.run_with_tap(text, &mut Nothing);
        "mean ablation": model.ablate(head(1, 0), Ablation::Mean(&run));
        "head_scores": head_scores(&model, &[HeadKind::Induction], &repeated);
        "scores of a run": one.previous_token_scores();
        "detect_head": detect_head(&model, text, HeadKind::PreviousToken, &DetectHeadOptions::default());
        "loss_on_repeats": loss_on_repeats(&model, &repeated);
        "causal_truth": causal_truth_by(&model, &Criteria::default(), &repeated);
        "ablation_effects": ablation_effects(&model, text, Ablation::Zero, &Metric::Loss);
        "a metric of one's own": ablation_effects(&model, text, Ablation::Zero, &custom);
        "activation_patching": activation_patching(&model, clean, corrupted, Site::Z, &metric);
        "attribution_patching": attribution_patching(&model, clean, corrupted, Site::Z, &metric);
        "path_patching": path_patching(&model, clean, corrupted, PathReceiver::Logits, &metric);
        "logit_lens": logit_lens(&model, &one);
        "full_resid_decomposition": full_resid_decomposition(&model, &one);
        "head_logit_attribution": head_logit_attribution(&model, &one, 300, None);
        "decompose_attn_scores": decompose_attn_scores(&model, &one, head(1, 4));
        "attn_score_spread": attn_score_spread(&model, &one, head(1, 4));
        "composition_scores": composition_scores(&model, Composition::K);
        "top_pairs": circuit.top_pairs(5);
        "full_eigenvalues": circuit.full_eigenvalues();
        "copying_accuracy": copying_accuracy(&model, &heads, 5);
        "a part of a sweep": {
            std::fs::remove_file(&path).ok();
            SweepPart::new(&path, Shard::ALL).measure(&model, vec![text; 20], &Metric::Loss)
        };
        "a part of scores": {
            std::fs::remove_file(&path).ok();
            SweepPart::new(&path, Shard::ALL).head_scores(&model, &[HeadKind::Induction], &repeated)
        };
        "training": training.run(10);
        "a loop of one's own": check_stop();
    }
    for (what, mut work) in works {
        stopped(what, &mut work);
    }
    std::fs::remove_file(&path).ok();
    Ok(())
}

type Work<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// Wants nothing.
struct Nothing;

impl headlight::Tap for Nothing {
    fn wants(&self, _: Hook) -> bool {
        false
    }

    fn tap(&mut self, _: Hook, activation: candle_core::Tensor) -> Result<candle_core::Tensor> {
        Ok(activation)
    }
}

/// A training that is stopped again and again is the training that runs through.
#[test]
fn a_stopped_training_goes_on_where_it_was() -> Result<()> {
    let _alone = alone();
    clear_stop();
    let options =
        TrainingOptions { d_model: 32, n_ctx: 32, batch: 4, evaluate_every: 5, ..TrainingOptions::default() };
    let (mut whole, mut stopped) = (Training::new(&options)?, Training::new(&options)?);
    whole.run(40)?;
    let mut stops = 0;
    while stopped.steps() < 40 {
        let asks = thread::spawn(|| {
            thread::sleep(Duration::from_millis(15));
            request_stop();
        });
        if let Err(error) = stopped.run(40 - stopped.steps()) {
            assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
            let after = format!("after step {}", stopped.steps());
            assert!(error.to_string().contains(&after), "{error}");
            stops += 1;
        }
        asks.join().expect("the thread that asks to stop");
        clear_stop();
    }
    assert!(stops > 0);
    // What was stopped last may have been the evaluation.
    stopped.run(1)?;
    whole.run(1)?;
    assert_eq!(stopped.curve(), whole.curve());
    assert_eq!(stopped.model()?.loss(vec![0, 1, 2])?, whole.model()?.loss(vec![0, 1, 2])?);
    Ok(())
}

#[test]
fn an_error_says_what_was_stopped_and_where() -> Result<()> {
    let _alone = alone();
    let model = Model::open("built-in")?;
    let slow = model.edit(("resid_pre", 0), "slow", |x| {
        thread::sleep(Duration::from_millis(5));
        Ok(x.clone())
    })?;
    let sampling = Sampling { max_new_tokens: 200, ..Sampling::default() };
    let mut first = true;
    let error = stopped("generate", || {
        let model = if std::mem::take(&mut first) { &slow } else { &model };
        model.generate("the", &sampling).map(drop)
    });
    let text = error.to_string();
    assert!(text.contains("generating was stopped after") && text.contains("of 200 steps"), "{text}");
    Ok(())
}

#[test]
fn a_run_stops_before_its_next_activation() -> Result<()> {
    static ARMED: AtomicBool = AtomicBool::new(false);
    static LATER: AtomicUsize = AtomicUsize::new(0);
    let _alone = alone();
    clear_stop();
    let asks = Model::open("built-in")?.edit(("q", 0), "asks to stop", |x| {
        if ARMED.load(Ordering::Relaxed) {
            request_stop();
        }
        Ok(x.clone())
    })?;
    let model = asks.edit(("k", 0), "comes next", |x| {
        LATER.fetch_add(1, Ordering::Relaxed);
        Ok(x.clone())
    })?;
    let before = LATER.load(Ordering::Relaxed);
    ARMED.store(true, Ordering::Relaxed);
    let error = model.loss("the cat sat").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
    assert!(error.to_string().contains("the run of the model was stopped"), "{error}");
    assert_eq!(LATER.load(Ordering::Relaxed), before);
    ARMED.store(false, Ordering::Relaxed);
    model.loss("the cat sat").map(drop)
}

#[test]
fn a_request_that_is_taken_back_stops_nothing() -> Result<()> {
    let _alone = alone();
    request_stop();
    clear_stop();
    check_stop()?;
    Model::open("built-in")?.loss("the cat sat").map(drop)
}
