//! Every verb of the command line against every kind of model: it works, or it is refused with its reason and what to do instead.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use clap::Parser;

use crate::error::{ErrorKind, Result};
use crate::open::TOYS;
use crate::tests::kinds::{
    Kind,
    Need::{self, Classes, Logits, NextToken, OneStack, ReadOut, Source, SumOfHeads, Text},
    kinds, open_toy,
};
use crate::tests::toys;

// Its `main` is not called here, and from within the crate no enum may grow unseen.
#[allow(dead_code, unreachable_patterns)]
#[path = "../cli/main.rs"]
mod cli;

use cli::args::Failure;

/// What a kind's model is given to read.
fn input(kind: &Kind, folder: &Path) -> Vec<String> {
    let list = |name: &str| ["--prompts".into(), folder.join(name).display().to_string()].to_vec();
    let ids = |each: &[&str]| each.iter().flat_map(|ids| ["--tokens".into(), ids.to_string()]).collect();
    match (kind.model.spec().reads_pictures(), kind.model.spec().stacks().len()) {
        (false, 1) => ids(&["3,1,4,3,1,4"]),
        (false, _) => {
            [ids(&["3,1,4,3,1,4"]), ["--target-tokens", "2,7,1,8"].map(String::from).to_vec()].concat()
        }
        (true, 1) => list("pictures.txt"),
        (true, _) => [list("captions.txt"), vec!["--ids".into()]].concat(),
    }
}

/// The verbs that take a model, as they are written behind it (`INPUT` is what the kind reads, `OUT` a file), with what they need.
const VERBS: &[(&str, &str, &[Need])] = &[
    ("report", "-o OUT.html", &[SumOfHeads, NextToken, OneStack]),
    ("heads", "--length 3 --batch 2", &[NextToken]),
    ("heads", "TEXT", &[ReadOut, Text]),
    ("heads", "TEXT --json", &[ReadOut, Text]),
    ("attention", "INPUT", &[]),
    ("attention", "INPUT -o OUT.html", &[]),
    ("attention", "INPUT --layer 1", &[]),
    ("attention", "INPUT --head HEAD", &[]),
    ("cache", "INPUT -o OUT.safetensors", &[]),
    ("cache", "INPUT --all -o OUT.safetensors", &[]),
    ("loss", "INPUT --json", &[NextToken]),
    ("loss", "INPUT --part OUT.part", &[NextToken]),
    ("ablate", "INPUT", &[NextToken]),
    ("ablate", "INPUT --heads HEAD --json", &[NextToken]),
    ("ablate", "INPUT --mode mean --part OUT.part", &[NextToken]),
    ("patch", "--ids --clean 3,1,4 --corrupted 3,2,4 --correct 5 --incorrect 6", &[Logits]),
    (
        "patch",
        "--ids --clean 3,1,4 --corrupted 3,2,4 --correct 5 --incorrect 6 --target 2,7 --json",
        &[Source],
    ),
    ("translate", "SOURCE", &[Source]),
    ("translate", "SOURCE --beams 3 -n 5 --json", &[Source]),
    ("classify", "INPUT", &[Classes]),
    ("classify", "INPUT --json", &[Classes]),
    ("classify", "INPUT -o OUT.svg", &[Classes]),
    ("attribute", "INPUT --class CLASS --baseline 0 --steps 4 --json", &[Classes, OneStack, Text]),
    ("attribute", "INPUT --class CLASS --method gradient", &[Classes, OneStack, Text]),
    ("attribute", "INPUT --class CLASS --method occlusion --baseline 0", &[Classes, OneStack, Text]),
    ("attribute", "INPUT --class CLASS --method value-flow -o OUT.html", &[Classes, OneStack]),
    ("qk", "HEAD INPUT", &[ReadOut]),
    ("qk", "CROSS INPUT --json", &[Source]),
    ("composition", "", &[SumOfHeads, OneStack]),
    ("detect", "", &[SumOfHeads, NextToken]),
    ("generate", "SOURCE -n 2", &[NextToken]),
];

fn ask(verb: &str, rest: &str, kind: &Kind, folder: &Path) -> std::result::Result<String, Failure> {
    let model = if kind.name == "decoder" { "built-in".into() } else { format!("toy: {}", kind.name) };
    let mut words = vec!["headlight".to_string(), verb.into(), model];
    for word in rest.split_whitespace() {
        match word {
            "INPUT" => words.extend(input(kind, folder)),
            // What is read before anything is written.
            "SOURCE" if kind.model.spec().reads_pictures() => words.extend(input(kind, folder)),
            "SOURCE" => words.extend(["--tokens", "3,1,4,3,1,4"].map(String::from)),
            // Where pictures are read there is none to give.
            "TEXT" if kind.model.spec().reads_pictures() => {
                words.extend(["--tokens", "3,1"].map(String::from))
            }
            "TEXT" => words.extend(input(kind, folder)),
            "HEAD" => words.push(kind.head.to_string()),
            "CROSS" => words.push(kind.read_out.cross().to_string()),
            "CLASS" => {
                words.push(kind.model.spec().class_labels().first().map_or("joy".into(), String::clone));
            }
            word => words.push(word.replace("OUT", &folder.join("out").display().to_string())),
        }
    }
    let parsed = cli::Cli::try_parse_from(&words).expect("a call as it is written");
    cli::run(parsed.verb.expect("a verb"))
}

#[test]
fn every_verb_works_or_is_refused() -> Result<()> {
    TOYS.get_or_init(|| open_toy);
    let folder = std::env::temp_dir().join(format!("headlight-verbs-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    // One picture, for what reads one input; and a list of two.
    let (mut pictures, mut captions) = (String::new(), String::new());
    for index in 0..2 {
        let path = folder.join(format!("{index}.png"));
        toys::write_png(&path, 6, png::ColorType::Rgb, png::BitDepth::Eight, toys::picture(index).rgb());
        pictures = format!("{index}.png\n");
        captions.push_str(&format!("{index}.png\t2,7,1,8\n"));
    }
    fs::write(folder.join("pictures.txt"), pictures).expect("a list");
    fs::write(folder.join("captions.txt"), captions).expect("a list");
    let mut wrong = Vec::new();
    for kind in &kinds()? {
        for (verb, rest, needs) in VERBS {
            let what = format!("{verb} {rest} of the {}", kind.name);
            let outcome = catch_unwind(AssertUnwindSafe(|| ask(verb, rest, kind, &folder)));
            fs::remove_file(folder.join("out.part")).ok();
            match outcome {
                Err(_) => wrong.push(format!("{what}: a panic")),
                Ok(Ok(said)) if said.contains("NaN") || said.is_empty() => {
                    wrong.push(format!("{what}: {said:?}"))
                }
                Ok(Ok(_)) if !kind.has(needs) => wrong.push(format!("{what}: no refusal")),
                Ok(Ok(_)) => {}
                Ok(Err(Failure::Usage(_))) if !kind.has(needs) => {}
                Ok(Err(Failure::Usage(why))) => wrong.push(format!("{what}: {why}")),
                Ok(Err(Failure::Error(error))) => {
                    let text = error.to_string();
                    let is_reasoned = text.contains("help:")
                        && matches!(error.kind(), ErrorKind::Model | ErrorKind::Address | ErrorKind::Input);
                    if kind.has(needs) || !is_reasoned {
                        wrong.push(format!("{what}: {:?} {text}", error.kind()));
                    }
                }
            }
        }
    }
    fs::remove_dir_all(&folder).ok();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
