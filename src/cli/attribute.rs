//! `headlight attribute`: how much each token counts for a class or an answer.

use std::path::PathBuf;

use clap::ValueEnum;
use headlight::analysis::{AttributionMethod, Metric, token_attribution, value_flow};
use headlight::network::Sees;
use headlight::{Figure, Model, Result, Visualize};
use serde_json::json;

use super::args::{Failure, InputArgs, Output, RequiredModel, save_or_text};
use super::json::line;

/// Show how much each token of a text counts for a class, or for the answer that a language model gives
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    headlight attribute built-in-sentiment \"the plot was not bad\" --class positive --instead negative\n  \
    headlight attribute distilbert-base-uncased-finetuned-sst-2-english \"not bad at all\" --class POSITIVE -o words.html\n  \
    headlight attribute bert-base-uncased \"The capital of France is [MASK].\" --answer paris\n  \
    headlight attribute built-in \"the cat sat on the mat, the cat\" --answer \" sat\" --method occlusion\n\n\
    JSON: {\"model\": ..., \"metric\": ..., \"method\": \"ig\", \"value\": 3.1, \"baseline\": 0.2, \"tokens\": [...], \"scores\": [...]}")]
pub struct Args {
    #[command(flatten)]
    model: RequiredModel,
    #[command(flatten)]
    input: InputArgs,
    /// The class whose logit is asked about
    #[arg(long, value_name = "NAME", required_unless_present = "answer", conflicts_with = "answer")]
    class: Option<String>,
    /// With --class: in place of which other class
    #[arg(long, value_name = "NAME", requires = "class")]
    instead: Option<String>,
    /// The token whose log-probability is asked about: behind [MASK], or next
    #[arg(long, value_name = "TOKEN")]
    answer: Option<String>,
    /// How it is asked
    #[arg(long, value_enum, default_value_t = Method::Ig)]
    method: Method,
    /// At how many places `ig` takes gradients
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// The token, by its id, that stands for none; what fills where none is named
    #[arg(long, value_name = "ID")]
    baseline: Option<u32>,
    /// Where the figure goes: .html, .png, .svg, .json or .txt; without it, text on the screen
    #[arg(short, long)]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    /// Integrated gradients
    Ig,
    /// The gradient times the embedding
    Gradient,
    /// What is lost where the token is masked
    Occlusion,
    /// What is lost where heads do not pass on the token's values to the position that is read
    ValueFlow,
}

pub fn run(args: Args) -> Output {
    let model = args.model.open()?;
    let input = args.input.input(&model)?;
    if input.len() != 1 {
        return Err(Failure::Usage("one text is asked about at a time"));
    }
    let metric = args.metric(&model)?;
    let method = match args.method {
        Method::Ig => {
            Some(AttributionMethod::IntegratedGradients { steps: args.steps, baseline: args.baseline })
        }
        Method::Gradient => Some(AttributionMethod::GradientTimesInput),
        Method::Occlusion => Some(AttributionMethod::Occlusion { by: args.baseline }),
        Method::ValueFlow => None,
    };
    let (views, scores, value, baseline) = match method {
        Some(method) => {
            let found = token_attribution(&model, input, &metric, method)?;
            (found.views()?, found.scores().clone(), found.value(), found.baseline())
        }
        None => {
            let found = value_flow(&model, input, &metric)?;
            (found.views()?, found.scores()?, found.value(), None)
        }
    };
    if args.json {
        return Ok(line(&json!({
            "model": model.name(),
            "metric": format!("{metric:?}"),
            "method": args.method.to_possible_value().map(|method| method.get_name().to_string()),
            "value": value,
            "baseline": baseline,
            "tokens": scores.axes()[0].labels(),
            "scores": scores.to_vec()?,
        })));
    }
    save_or_text(&Figure::new(views)?, args.out.as_deref())
}

impl Args {
    fn metric(&self, model: &Model) -> Result<Metric> {
        match (&self.class, &self.instead, &self.answer) {
            (Some(class), None, _) => Metric::class(model, class),
            (Some(class), Some(instead), _) => Metric::class_diff(model, class, instead),
            (None, _, answer) => {
                let token = model.to_single_token(answer.as_deref().unwrap_or_default())?;
                let position = match self.input.text.as_slice() {
                    [text] if model.spec().last_stack().sees == Sees::All => Some(model.mask_position(text)?),
                    _ => None,
                };
                Ok(Metric::LogProb { token, position })
            }
        }
    }
}
