//! Sampling against its definition: the frequencies of drawn tokens are the softmax of the logits over the temperature.

use std::collections::HashMap;

use crate::common::Golden;
use headlight::Result;
use headlight::prelude::*;

#[test]
fn tokens_are_drawn_by_their_probability() -> Result<()> {
    const DRAWS: u64 = 4000;
    let golden = Golden::open("tiny-gpt2-induction");
    let model = Model::open(&golden.folder)?;
    let prompt = golden.ids("A");
    let logits = model.logits(&prompt)?.select("position", prompt.len() - 1)?.to_vec()?;
    for (temperature, top_k) in [(1.0, None), (2.5, None), (1.5, Some(4))] {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order.truncate(top_k.unwrap_or(logits.len()));
        let weight = |id: usize| f64::from((logits[id] - logits[order[0]]) / temperature).exp();
        let total: f64 = order.iter().map(|&id| weight(id)).sum();
        let mut drawn: HashMap<u32, u64> = HashMap::new();
        for seed in 0..DRAWS {
            let sampling = Sampling { max_new_tokens: 1, temperature, top_k, seed };
            *drawn.entry(model.generate(&prompt, &sampling)?.new_ids()[0]).or_default() += 1;
        }
        assert!(drawn.keys().all(|id| order.contains(&(*id as usize))), "only the top {top_k:?} are drawn");
        for &id in &order {
            let p = weight(id) / total;
            let share = drawn.get(&(id as u32)).copied().unwrap_or(0) as f64 / DRAWS as f64;
            // Five standard deviations of a binomial share.
            let bound = 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt() + 1e-9;
            assert!(
                (share - p).abs() < bound.max(5.0 / DRAWS as f64),
                "token {id}: drawn {share}, probability {p}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_same_seed_draws_the_same_tokens() -> Result<()> {
    let model = Model::open("built-in")?;
    let draw = |seed| {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        Ok::<_, headlight::Error>(model.generate("the cat sat on", &sampling)?.new_ids().to_vec())
    };
    assert_eq!(draw(3)?, draw(3)?);
    assert_ne!(draw(3)?, draw(4)?);
    let greedy = model.generate("the cat sat on", &Sampling::default())?;
    let likeliest = Sampling { temperature: 0.5, top_k: Some(1), seed: 9, ..Sampling::default() };
    assert_eq!(model.generate("the cat sat on", &likeliest)?.new_ids(), greedy.new_ids());
    Ok(())
}
