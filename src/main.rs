//! The command line: the library's calls, one a verb.

mod report;
mod verbs;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use headlight::analysis::{DynamicThreshold, RepeatedTokens, Shard};
use headlight::{Figure, Head, Input, Model, Remedy, Result, Run, RunOptions, Sampling, Site, no_bos};
use verbs::{Kept, Mode};

const EXAMPLES: &str = "Examples:
  headlight                                   a report on the built-in model
  headlight heads built-in                    what each head does, by its attention
  headlight attention built-in \"the cat sat the cat sat\" -o attention.html
  headlight cache my-gpt2/ --tokens 0,5,9,5 --all -o run.safetensors

  headlight models                            the models that open by name, and which of them are here

MODEL is `built-in`, a name that `headlight models` lists (gpt2), owner/name of the Hugging Face hub (with @revision if
one wants), a folder with config.json, model.safetensors and a tokenizer, or a GGUF file.";

#[derive(Parser)]
#[command(version, about = "Look inside transformers: what each attention head does", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Score every head, look at four sequences, write one HTML report (what happens without a verb)
    #[command(after_help = "Example:\n  headlight report built-in -o report.html")]
    Report(ReportArgs),
    /// Score every head: induction, previous token, duplicate token, current token, first token
    #[command(
        after_help = "Examples:\n  headlight heads\n  headlight heads my-gpt2/ --json > heads.json\n\n\
        JSON: {\"model\": \"built-in\", \"length\": 50, \"batch\": 10, \"seed\": 0, \"heads\": \
        [{\"head\": \"L0H0\", \"induction\": 0.01, \"previous_token\": 0.2, ...}]}"
    )]
    Heads {
        #[command(flatten)]
        model: ModelArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Random tokens before they repeat [default: 50, or what the context holds]
        #[arg(long)]
        length: Option<usize>,
        /// Sequences of random tokens [default: 10]
        #[arg(long)]
        batch: Option<usize>,
        /// Seed of the random tokens [default: 0]
        #[arg(long)]
        seed: Option<u64>,
        #[command(flatten)]
        kept: KeptArgs,
    },
    /// Draw the attention patterns of a text
    #[command(
        after_help = "Examples:\n  headlight attention built-in \"the cat sat the cat sat\" -o attention.html\n  \
        headlight attention built-in \"the cat sat\" --layer 1 -o layer1.png"
    )]
    Attention {
        #[command(flatten)]
        model: RequiredModel,
        #[command(flatten)]
        input: InputArgs,
        /// One layer only
        #[arg(long)]
        layer: Option<usize>,
        /// The layer of this head, with the head enlarged
        #[arg(long, conflicts_with = "layer")]
        head: Option<Head>,
        /// Where the figure goes: .html, .png, .svg, .json or .txt; without it, text on the screen
        #[arg(short, long)]
        out: Option<PathBuf>,
    },
    /// Save the activations of a run under TransformerLens's names
    #[command(after_help = "Examples:\n  headlight cache built-in \"the cat sat\" -o run.safetensors\n  \
        headlight cache built-in --tokens 0,5,9 --hooks 'blocks.*.attn.hook_pattern' -o patterns.safetensors")]
    Cache {
        #[command(flatten)]
        model: RequiredModel,
        #[command(flatten)]
        input: InputArgs,
        /// Where the activations go
        #[arg(short, long)]
        out: PathBuf,
        /// Only hooks that match; `*` stands for anything
        #[arg(long, value_name = "GLOB", conflicts_with = "all")]
        hooks: Option<String>,
        /// The opt-in hooks too: hook_result, hook_q_input, hook_k_input, hook_v_input, hook_mlp_in
        #[arg(long)]
        all: bool,
    },
    /// List the models that open by name, and which are in the cache of the Hugging Face hub; nothing is fetched
    #[command(after_help = "Examples:\n  headlight models\n  headlight models --json\n\n\
        JSON: {\"models\": [{\"name\": \"gpt2\", \"also\": [\"gpt2-small\"], \"layers\": 12, \"heads\": 12, \"width\": 768, \
        \"millions\": 124.0, \"repository\": \"openai-community/gpt2\", \"cached\": null, \"cached_bytes\": 0}, ...]}")]
    Models {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the loss of each token and their mean, in nats; of --prompts the mean alone
    #[command(after_help = "Example:\n  headlight loss built-in \"the cat sat the cat sat\"\n\n\
        JSON: {\"model\": \"built-in\", \"loss\": 5.1, \"tokens\": [\"<|endoftext|>\", \"the\", ...], \"ids\": [0, ...], \
        \"loss_per_token\": [...]}")]
    Loss {
        #[command(flatten)]
        model: RequiredModel,
        #[command(flatten)]
        input: InputArgs,
        #[command(flatten)]
        kept: KeptArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ablate heads and print what that adds to the loss, in nats; without --heads, each head by itself
    #[command(after_help = "Examples:\n  headlight ablate built-in \"the cat sat the cat sat\"\n  \
        headlight ablate built-in \"the cat sat the cat sat\" --heads L1H0,L1H2 --mode mean\n  \
        headlight ablate built-in --prompts prompts.txt --part 1.part --shard 1/2\n\n\
        JSON: {\"model\": \"built-in\", \"mode\": \"zero\", \"heads\": [\"L1H0\"], \"loss\": 3.1, \
        \"ablated_loss\": 4.2, \"effect\": 1.1}\n\
        or, without --heads: {\"model\": ..., \"mode\": ..., \"loss\": 3.1, \"effects\": [{\"head\": \"L0H0\", \"effect\": 0.1}, ...]}")]
    Ablate {
        #[command(flatten)]
        model: RequiredModel,
        #[command(flatten)]
        input: InputArgs,
        /// The heads to ablate together: L1H0,L1H2
        #[arg(long, value_delimiter = ',', conflicts_with = "part")]
        heads: Vec<Head>,
        /// What is put in their place
        #[arg(long, value_enum, default_value_t = Mode::Zero)]
        mode: Mode,
        /// The text whose activations stand in for the heads' own; resampling needs it [default for mean: the text itself]
        #[arg(long, conflicts_with = "reference_tokens")]
        reference: Option<String>,
        /// The same, as token ids
        #[arg(long, value_name = "IDS")]
        reference_tokens: Option<String>,
        #[command(flatten)]
        kept: KeptArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make one result of the files that the shards of `ablate`, `heads` or `loss` have written with --part
    #[command(
        after_help = "Example:\n  headlight ablate built-in --prompts prompts.txt --part 1.part --shard 1/2\n  \
        headlight ablate built-in --prompts prompts.txt --part 2.part --shard 2/2\n  headlight merge 1.part 2.part\n\n\
        It prints what the verb would have printed in one piece; --json as well."
    )]
    Merge {
        /// The file of each shard, in any order
        #[arg(required = true, value_name = "PART")]
        parts: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Where the figure goes
        #[arg(short, long)]
        out: Option<PathBuf>,
    },
    /// Patch activations of a clean text into a corrupted one, each in turn, and print the logit difference
    #[command(after_help = "Example:\n  headlight patch built-in --clean \"the cat sat the cat\" \
        --corrupted \"the cat sat the dog\" --correct \" sat\" --incorrect \" the\" --site z\n\n\
        JSON: {\"model\": ..., \"site\": \"attn.hook_z\", \"clean\": 2.1, \"corrupted\": -0.3, \"axes\": \
        [\"layer\", \"head\"], \"patched\": [[...], ...]}")]
    Patch {
        #[command(flatten)]
        model: RequiredModel,
        /// The text (or, as 1,2,3, the token ids) that calls forth the right answer
        #[arg(long)]
        clean: String,
        /// The text (or ids) of as many tokens that does not
        #[arg(long)]
        corrupted: String,
        /// The right answer: one token (with --ids, its id)
        #[arg(long)]
        correct: String,
        /// The wrong answer: one token (with --ids, its id)
        #[arg(long)]
        incorrect: String,
        /// The position that predicts [default: the last]
        #[arg(long)]
        position: Option<usize>,
        /// What is patched: z, q, k, v, pattern, resid_pre, attn_out, mlp_out
        #[arg(long, default_value = "z")]
        site: String,
        /// Inputs and answers are given as token ids: 1,2,3
        #[arg(long)]
        ids: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Where the figure goes
        #[arg(short, long)]
        out: Option<PathBuf>,
    },
    /// A head's attention scores and pattern on a text, from its weights: who attends to whom, and why
    #[command(
        after_help = "Example:\n  headlight qk built-in L1H0 \"the cat sat the cat sat\" -o qk.html\n\n\
        JSON: {\"model\": \"built-in\", \"head\": \"L1H0\", \"tokens\": [\"the\", ...], \"scores\": [[1.5, null], ...], \
        \"pattern\": [[1.0, 0.0], ...], \"previous_token_mass\": 0.1, \"singular_values\": [7.1, ...]}; the mass is null where positions are not embedded"
    )]
    Qk {
        /// `built-in`, a known name, owner/name of the hub, a folder or a GGUF file
        model: String,
        /// The head: L1H0
        head: Head,
        #[command(flatten)]
        input: InputArgs,
        /// Fold the layer norms into the weights, as TransformerLens does by default
        #[arg(long)]
        folded: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Where the figure goes
        #[arg(short, long)]
        out: Option<PathBuf>,
    },
    /// How much each head's output enters the queries, keys and values of later heads
    #[command(after_help = "Example:\n  headlight composition built-in\n\n\
        JSON: {\"q\": [[[[null, ...]]]], \"k\": ..., \"v\": ...}, each [layer][head][later layer][later head], null where \
        the second layer is not later")]
    Composition {
        #[command(flatten)]
        model: ModelArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Find the induction heads by a threshold that follows each head's variance, and judge them by their causes
    #[command(after_help = "Examples:\n  headlight detect built-in\n  headlight detect built-in --json\n\n\
        JSON: {\"model\": \"built-in\", \"threshold\": \"dynamic, 3 deviations\", \"precision\": 1.0, \"recall\": 1.0, \"f1\": 1.0, \
        \"heads\": [{\"head\": \"L0H0\", \"score\": 0.01, \"threshold\": 0.3, \"found\": false, \"true\": false, \
        \"prefix_matching\": 0.01, \"copying\": 0.02, \"effect\": 0.0}, ...]}")]
    Detect {
        #[command(flatten)]
        model: ModelArgs,
        /// Standard deviations of a head's attention elsewhere that its score must exceed
        #[arg(long, default_value_t = DynamicThreshold::default().deviations, allow_negative_numbers = true)]
        deviations: f32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Continue a text
    #[command(
        after_help = "Example:\n  headlight generate built-in \"the cat sat on\" --temperature 0.8 --seed 3"
    )]
    Generate {
        #[command(flatten)]
        model: RequiredModel,
        #[command(flatten)]
        input: InputArgs,
        /// Tokens to add
        #[arg(short = 'n', long, default_value_t = 20)]
        max_new_tokens: usize,
        /// 0 takes the likeliest token each time
        #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
        temperature: f32,
        /// Draw among this many likeliest tokens
        #[arg(long)]
        top_k: Option<usize>,
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

#[derive(Args)]
struct ReportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Where the report goes
    #[arg(short, long, default_value = "headlight-report.html")]
    out: PathBuf,
}

#[derive(Args)]
struct ModelArgs {
    /// `built-in`, a known name, owner/name of the hub, a folder or a GGUF file
    #[arg(default_value = "built-in")]
    model: String,
    /// Fold the layer norms into the weights, as TransformerLens does by default
    #[arg(long)]
    folded: bool,
}

#[derive(Args)]
struct RequiredModel {
    /// `built-in`, a known name, owner/name of the hub, a folder or a GGUF file
    model: String,
    /// Fold the layer norms into the weights, as TransformerLens does by default
    #[arg(long)]
    folded: bool,
}

#[derive(Args)]
struct InputArgs {
    /// Text to run; several make a batch
    #[arg(required_unless_present_any = ["tokens", "prompts"], conflicts_with_all = ["tokens", "prompts"])]
    text: Vec<String>,
    /// Token ids to run, in place of text: 1,2,3; several times for a batch
    #[arg(long, value_name = "IDS", conflicts_with = "prompts")]
    tokens: Vec<String>,
    /// A file of texts to run, one a line
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// The lines of --prompts are token ids: 1,2,3
    #[arg(long)]
    ids: bool,
    /// Put no BOS token before the text
    #[arg(long)]
    no_bos: bool,
}

impl InputArgs {
    fn input(&self) -> Result<Input> {
        if self.ids && self.prompts.is_none() {
            usage("--ids says how --prompts is to be read");
        }
        if let Some(prompts) = &self.prompts {
            let lines = Input::lines(prompts)?;
            let input = if self.ids { lines.as_ids()? } else { lines };
            return Ok(if self.no_bos { no_bos(input) } else { input });
        }
        if self.tokens.is_empty() {
            let input = Input::from(self.text.as_slice());
            return Ok(if self.no_bos { no_bos(input) } else { input });
        }
        let ids = self.tokens.iter().map(|list| Input::parse_ids(list)).collect::<Result<Vec<_>>>()?;
        Ok(ids.into())
    }
}

/// How a sweep that takes long is stopped and gone on with, and shared among processes.
#[derive(Args)]
struct KeptArgs {
    /// Keep what is found of each input in this file, and go on after what is in it
    #[arg(long, value_name = "FILE")]
    part: Option<PathBuf>,
    /// With --part: only one share of the inputs, as 1/4; `headlight merge` puts all shards together
    #[arg(long, value_name = "I/N", requires = "part")]
    shard: Option<Shard>,
}

impl KeptArgs {
    fn kept(self) -> Option<Kept> {
        Some(Kept { path: self.part?, shard: self.shard.unwrap_or(Shard::ALL) })
    }
}

fn open(name: &str, folded: bool) -> Result<Model> {
    let model = Model::open(name)?;
    if folded { model.folded() } else { Ok(model) }
}

/// What to do about an error, in terms of what the verb takes.
fn in_flags(verb: Option<&Verb>) -> impl Fn(Remedy) -> &'static str + use<> {
    let caches = matches!(verb, Some(Verb::Cache { .. }));
    let draws = matches!(verb, Some(Verb::Attention { head: None, .. }));
    move |remedy| match remedy {
        Remedy::OneInput => "give one text, or --tokens once",
        Remedy::KeepLess if caches => {
            "keep less, as with --hooks 'blocks.*.attn.hook_z'; or give a shorter text, or fewer at once"
        }
        Remedy::KeepLess | Remedy::DrawLess if draws => {
            "draw one head with --head L0H3, or one layer with --layer 0; or give a shorter text, or fewer at once"
        }
        _ => "give a shorter text, or fewer at once",
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let in_flags = in_flags(cli.verb.as_ref());
    match run(cli.verb) {
        Ok(output) => print(&output),
        Err(error) => {
            let error = match error.remedy() {
                Some(remedy) => error.help(in_flags(remedy)),
                None => error,
            };
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(output: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(output.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough (`| head`) is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let help = "check that the disk has room, or write elsewhere";
            let said = format!("error: cannot write the output\n  cause: {error}\n  help: {help}\n");
            let _ = std::io::stderr().write_all(said.as_bytes());
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Ends the program as for any other wrong use of its arguments.
fn usage(wrong: &str) {
    Cli::command().error(clap::error::ErrorKind::ArgumentConflict, wrong).exit();
}

/// What a verb prints.
fn run(verb: Option<Verb>) -> Result<String> {
    match verb {
        None => {
            let model = ModelArgs { model: "built-in".into(), folded: false };
            report(ReportArgs { model, out: "headlight-report.html".into() })
        }
        Some(Verb::Report(args)) => report(args),
        Some(Verb::Heads { model, json, length, batch, seed, kept }) => {
            let model = open(&model.model, model.folded)?;
            let default = RepeatedTokens::for_model(&model);
            let repeated = RepeatedTokens {
                length: length.unwrap_or(default.length),
                batch: batch.unwrap_or(default.batch),
                seed: seed.unwrap_or(default.seed),
            };
            verbs::heads(&model, &repeated, kept.kept().as_ref(), json)
        }
        Some(Verb::Attention { model, input, layer, head, out }) => {
            let model = open(&model.model, model.folded)?;
            let options = match layer.or(head.map(|head| head.layer)) {
                Some(layer) if layer < model.dims().n_layers => {
                    RunOptions::matching(Site::Pattern.at(layer).to_string())
                }
                _ => RunOptions::only([Site::Pattern]),
            };
            let run = model.run_with_options(input.input()?, &options)?;
            let of = |draw: &dyn Fn(&Run) -> Result<Figure>| {
                let figures = (0..run.tokens().len()).map(|index| draw(&run.item(index)?));
                Figure::stack(figures.collect::<Result<Vec<_>>>()?)
            };
            let figure = match (layer, head) {
                (_, Some(head)) => of(&|run| Figure::attention_of(&run.pattern(head.layer)?, head.head))?,
                (Some(layer), None) => of(&|run| Figure::attention(&run.pattern(layer)?))?,
                (None, None) => run.figure()?,
            };
            match out {
                Some(out) => {
                    figure.save(&out)?;
                    Ok(format!("wrote {}\n", out.display()))
                }
                None => Ok(figure.to_text()),
            }
        }
        Some(Verb::Cache { model, input, out, hooks, all }) => {
            let options = match (hooks, all) {
                (Some(glob), _) => RunOptions::matching(glob),
                (None, true) => RunOptions::all(),
                (None, false) => RunOptions::new(),
            };
            let run = open(&model.model, model.folded)?.run_with_options(input.input()?, &options)?;
            run.save(&out)?;
            Ok(format!("wrote {} activations to {}\n", run.hooks().len(), out.display()))
        }
        Some(Verb::Models { json }) => verbs::models(json),
        Some(Verb::Merge { parts, json, out }) => verbs::merged(&parts, json, out.as_deref()),
        Some(Verb::Loss { model, input, kept, json }) => {
            let model = open(&model.model, model.folded)?;
            match (input.prompts.is_some(), kept.kept()) {
                (false, None) => verbs::loss(&model, input.input()?, json),
                (_, kept) => verbs::mean_loss(&model, input.input()?, kept.as_ref(), json),
            }
        }
        Some(Verb::Ablate { model, input, heads, mode, reference, reference_tokens, kept, json }) => {
            let model = open(&model.model, model.folded)?;
            let reference = match (reference, reference_tokens) {
                (Some(text), _) => Some(if input.no_bos { no_bos(text) } else { text.into() }),
                (None, Some(ids)) => Some(Input::parse_ids(&ids)?.into()),
                (None, None) => None,
            };
            match (mode, &reference) {
                // Resampled from itself, everything would stay as it was.
                (Mode::Resample, None) => usage("--mode resample needs --reference or --reference-tokens"),
                // A run of thousands would be kept whole.
                (Mode::Mean, None) if input.prompts.is_some() => {
                    usage("--mode mean needs --reference or --reference-tokens with --prompts");
                }
                (Mode::Zero, Some(_)) => usage("a reference is for --mode mean or --mode resample"),
                _ => {}
            }
            verbs::ablate(&model, input.input()?, &heads, mode, reference, kept.kept().as_ref(), json)
        }
        Some(Verb::Patch { model, clean, corrupted, correct, incorrect, position, site, ids, json, out }) => {
            let model = open(&model.model, model.folded)?;
            let pair = verbs::PatchedPair { clean, corrupted, correct, incorrect, position, ids };
            verbs::patch(&model, &pair, &site, json, out.as_deref())
        }
        Some(Verb::Qk { model, head, input, folded, json, out }) => {
            verbs::qk(&open(&model, folded)?, head, input.input()?, json, out.as_deref())
        }
        Some(Verb::Composition { model, json }) => {
            verbs::composition(&open(&model.model, model.folded)?, json)
        }
        Some(Verb::Detect { model, deviations, json }) => {
            let model = open(&model.model, model.folded)?;
            verbs::detect(&model, DynamicThreshold { deviations }, json)
        }
        Some(Verb::Generate { model, input, max_new_tokens, temperature, top_k, seed }) => {
            let model = open(&model.model, model.folded)?;
            let sampling = Sampling { max_new_tokens, temperature, top_k, seed };
            let generated = model.generate(input.input()?, &sampling)?;
            Ok(format!("{}\n", generated.text()))
        }
    }
}

fn report(args: ReportArgs) -> Result<String> {
    let model = open(&args.model.model, args.model.folded)?;
    report::write(&model, &args.out)
}
