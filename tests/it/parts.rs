//! Sweeps in parts: stopped, gone on with, shared among processes and merged, they find what one process finds, to the last
//! bit. The example of the documentation is run as it is written.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::folder::Folder;
use crate::common::refused;
use headlight::ErrorKind::{File, Input as BadInput};
use headlight::Result;
use headlight::analysis::*;
use headlight::prelude::*;

const PROMPTS: [&str; 11] = [
    "the cat sat the cat sat",
    "the dog",
    "the king said that the king",
    "a b c a b c a b",
    "the quick brown fox jumps over the quick brown fox",
    "one two three",
    "the cat sat on the mat",
    "it was the best of times",
    "the dog sat the dog sat the dog",
    "no more, no more",
    "the end",
];

/// A place with the prompts in a file.
fn place() -> Folder {
    let place = Folder::new();
    place.write("prompts.txt", PROMPTS.join("\n") + "\n");
    place
}

fn call(place: &Folder, args: &[&str]) -> Output {
    command(place, args).output().expect("the binary runs")
}

fn command(place: &Folder, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headlight"));
    command.current_dir(place.name()).args(args);
    command
}

/// The standard output of a call that must succeed.
fn out(place: &Folder, args: &[&str]) -> String {
    let output = call(place, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn bits(effects: &AblationEffects) -> Vec<u64> {
    let values = [effects.heads().values(), effects.layers()].map(|named| named.to_vec().expect("numbers"));
    let values = values.concat().into_iter().map(|value| u64::from(value.to_bits()));
    values.chain([effects.clean().to_bits()]).collect()
}

fn effects(merged: SweepResult) -> AblationEffects {
    match merged {
        SweepResult::Ablation { effects, .. } => effects,
        other => panic!("{other:?} is not of an ablation"),
    }
}

fn paths(place: &Folder, n: usize) -> Vec<PathBuf> {
    (1..=n).map(|index| place.path(&format!("{index}-of-{n}.part"))).collect()
}

/// The model with few parts to ablate, so that a sweep is quick.
fn small() -> Result<Model> {
    Model::open(&format!("{}/tests/golden/tiny-gpt2-random", env!("CARGO_MANIFEST_DIR")))
}

fn sequences() -> Vec<Vec<u32>> {
    (0..11).map(|i: u32| (0..3 + i % 5).map(|j| (i * 31 + j * 7) % 160).collect()).collect()
}

#[test]
fn shards_merge_to_the_last_bit() -> Result<()> {
    let place = place();
    let model = Model::open("built-in")?;
    let whole = ablation_effects(&model, PROMPTS, Ablation::Zero, &Metric::Loss)?;
    for n in [1, 2, 3, 5, 13] {
        let paths = paths(&place, n);
        for (i, path) in paths.iter().enumerate() {
            let part = SweepPart::new(path, Shard::new(i + 1, n)?);
            part.ablation_effects(&model, PROMPTS, Ablation::Zero, &Metric::Loss)?;
        }
        let reversed: Vec<_> = paths.iter().rev().collect();
        let merged = effects(merge(&reversed)?);
        assert_eq!(bits(&merged), bits(&whole), "{n} shards");
        assert_eq!(format!("{merged:?}"), format!("{whole:?}"));
    }
    // What is added up is what a plain run of each prompt gives.
    let (mut sum, mut count) = (0.0, 0);
    for prompt in PROMPTS {
        let losses = model.loss_per_token(prompt)?.to_vec()?;
        sum += losses.iter().copied().map(f64::from).sum::<f64>();
        count += losses.len();
    }
    let plain = sum / count as f64;
    assert!((whole.clean() - plain).abs() < 1e-5, "{} and {plain}", whole.clean());
    Ok(())
}

#[test]
fn other_sweeps_merge_too() -> Result<()> {
    let place = place();
    let model = small()?;
    let repeated = RepeatedTokens { length: 7, batch: 5, seed: 3 };
    let whole = head_scores(&model, &HeadKind::ALL, &repeated)?;
    let (scores, losses) = (paths(&place, 2), paths(&place, 3));
    for (i, path) in scores.iter().enumerate() {
        SweepPart::new(path, Shard::new(i + 1, 2)?).head_scores(&model, &HeadKind::ALL, &repeated)?;
    }
    let SweepResult::HeadScores { scores: merged, repeated: of, .. } = merge(&scores)? else {
        panic!("scores")
    };
    assert_eq!((merged.len(), of), (whole.len(), repeated));
    for (a, b) in merged.iter().zip(&whole) {
        assert_eq!(
            (a.kind(), a.dataset(), a.values().to_vec()?),
            (b.kind(), b.dataset(), b.values().to_vec()?)
        );
        let thresholds =
            |scores: &HeadScores| scores.detect(DynamicThreshold::default())?.thresholds().values().to_vec();
        assert_eq!(thresholds(a)?, thresholds(b)?);
    }
    for (i, path) in losses.iter().enumerate() {
        SweepPart::new(path, Shard::new(i + 1, 3)?).measure(&model, sequences(), &Metric::Loss)?;
    }
    let SweepResult::Metric { value, inputs, .. } = merge(&losses)? else { panic!("a metric") };
    assert_eq!((value.to_bits(), inputs), (Metric::Loss.measure(&model, sequences())?.to_bits(), 11));
    Ok(())
}

/// Numbers that JSON does not have, and those of many digits, come back as they were.
#[test]
fn numbers_keep_their_bits() -> Result<()> {
    let place = place();
    let model = small()?;
    for value in [f32::NAN, f32::INFINITY, f32::MIN_POSITIVE, 1e-45, 0.1, -3.4e38] {
        let metric = Metric::custom("given", move |_| Ok(value));
        let path = place.path("given.part");
        SweepPart::new(&path, Shard::ALL).measure(&model, vec![1, 2], &metric)?;
        let SweepResult::Metric { value: found, .. } = merge(&[&path])? else { panic!("a metric") };
        assert_eq!(found.to_bits(), f64::from(value).to_bits(), "{value}");
        place.remove("given.part");
    }
    Ok(())
}

/// Cut anywhere, a part goes on to the same end.
#[test]
fn a_part_goes_on_from_wherever_it_was_cut() -> Result<()> {
    let place = place();
    let model = small()?;
    let (path, shard) = (place.path("1.part"), Shard::new(1, 2)?);
    let make =
        || SweepPart::new(&path, shard).ablation_effects(&model, sequences(), Ablation::Zero, &Metric::Loss);
    make()?;
    let whole = place.read("1.part");
    make()?;
    assert_eq!(place.read("1.part"), whole, "done again");
    let header = whole.iter().position(|&byte| byte == b'\n').expect("a first line");
    let cuts =
        [0, 1, header / 2, header, header + 1, header + 2, header + 40, whole.len() / 2, whole.len() - 1];
    for cut in cuts {
        place.write("1.part", &whole[..cut]);
        make()?;
        assert_eq!(place.read("1.part"), whole, "cut after {cut} bytes");
    }
    Ok(())
}

/// Killed or interrupted in the middle, again and again, the command ends with what it would have found at once.
#[cfg(unix)]
#[test]
fn a_command_goes_on_where_it_was_ended() {
    let place = Folder::new();
    let many: Vec<String> =
        (0..24).map(|i| format!("{} {}", PROMPTS[4], PROMPTS[i % 11]).repeat(2)).collect();
    place.write("prompts.txt", many.join("\n"));
    let args = ["ablate", "built-in", "--prompts", "prompts.txt", "--json"];
    let in_part = [&args[..], &["--part", "x.part"]].concat();
    let lines =
        || fs::read(place.path("x.part")).map_or(0, |bytes| bytes.iter().filter(|&&b| b == b'\n').count());
    for signal in ["INT", "KILL", "TERM"] {
        let before = lines();
        let child = command(&place, &in_part).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("the binary runs");
        let begun = Instant::now();
        while lines() < before + 3 {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing comes");
            thread::sleep(Duration::from_millis(2));
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().is_ok_and(|status| status.success()));
        let output = child.wait_with_output().expect("it ends");
        assert!(!output.status.success(), "{signal}: it was done before");
        let said = String::from_utf8_lossy(&output.stderr);
        for fragment in ["ablating was stopped after", "x.part keeps what is done", "it goes on"] {
            assert!(signal == "KILL" || said.contains(fragment), "{signal}: no `{fragment}` in {said}");
        }
        assert!(lines() >= before + 3 && lines() < 25);
    }
    assert_eq!(out(&place, &in_part), out(&place, &args));
    assert_eq!(out(&place, &["merge", "x.part", "--json"]), out(&place, &args));
}

#[test]
fn what_cannot_be_made_or_merged() -> Result<()> {
    let place = place();
    let model = small()?;
    let all = sequences();
    let make = |model: &Model, name: &str, shard: &str, input: &[Vec<u32>], ablation, metric: &Metric| {
        SweepPart::new(place.path(name), shard.parse()?).ablation_effects(
            model,
            input.to_vec(),
            ablation,
            metric,
        )
    };
    let plain = |name: &str, shard: &str| make(&model, name, shard, &all, Ablation::Zero, &Metric::Loss);
    for (name, shard) in [("1", "1/3"), ("2", "2/3"), ("3", "3/3"), ("half", "1/2"), ("again", "2/3")] {
        plain(name, shard)?;
    }
    make(&model, "other", "3/3", &all[..10], Ablation::Zero, &Metric::Loss)?;
    let cut = String::from_utf8(place.read("3")).expect("UTF-8");
    place.write("cut", &cut[..cut.len() - 9]);
    place.write("strange", cut.replace("\n9\t", "\n7\t"));
    place.write("short", cut.replacen('\t', "", 1));
    place.write("longer", format!("{cut}12\t1.0\n"));
    place.write("version", cut.replace("\"headlight_part\":2", "\"headlight_part\":3"));
    place.write("huge", cut.replace("\"layers\":2", "\"layers\":18446744073709551615"));
    place.write("text", "some text\n");
    place.write("bytes", [0xff, 0xfe, b'\n']);
    place.write("empty", "");
    let reference = model.run_with_cache(vec![1, 2, 3])?;
    let merged = |names: &[&str]| {
        let paths: Vec<PathBuf> = names.iter().map(|name| place.path(name)).collect();
        merge(&paths).map(drop)
    };
    let other_model = model.with_random_weights(1)?;
    let without = model.ablate(head(0, 0), Ablation::Zero)?;
    refused(vec![
        ("shard 3/2", "3/2".parse::<Shard>().map(drop), BadInput, &["there is no shard 3/2", "count from 1"]),
        ("shard 0/2", "0/2".parse::<Shard>().map(drop), BadInput, &["there is no shard 0/2"]),
        ("shard 1", "1".parse::<Shard>().map(drop), BadInput, &["`1` is not a shard", "1/4"]),
        (
            "another shard",
            plain("1", "2/3"),
            BadInput,
            &["of another sweep", "shard \"1/3\", now asked for \"2/3\""],
        ),
        (
            "another metric",
            make(&model, "1", "1/3", &all, Ablation::Zero, &Metric::Kl),
            BadInput,
            &["metric \"loss\", now asked for \"KL divergence\""],
        ),
        (
            "another ablation",
            make(&model, "1", "1/3", &all, Ablation::Mean(&reference), &Metric::Loss),
            BadInput,
            &["ablation \"zero\", now asked for \"mean\"", "reference null"],
        ),
        (
            "other weights",
            make(&other_model, "1", "1/3", &all, Ablation::Zero, &Metric::Loss),
            BadInput,
            &["weights \"", "digests"],
        ),
        (
            "an edited model",
            make(&without, "1", "1/3", &all, Ablation::Zero, &Metric::Loss),
            BadInput,
            &["weights \""],
        ),
        (
            "fewer inputs",
            make(&model, "1", "1/3", &all[1..], Ablation::Zero, &Metric::Loss),
            BadInput,
            &["inputs 11, now asked for 10", "tokens \""],
        ),
        ("no part", plain("text", "1/3"), File, &["text is not a part of a sweep"]),
        ("no text", plain("bytes", "1/3"), File, &["bytes is not a part of a sweep"]),
        ("no folder", plain("no/1", "1/3"), File, &["cannot write", "its folder exists"]),
        ("a changed row", plain("strange", "3/3"), File, &["strange, line 3, is not the row of input 9"]),
        (
            "no inputs",
            make(&model, "none", "1/1", &[], Ablation::Zero, &Metric::Loss),
            BadInput,
            &["at least one"],
        ),
        (
            "an input that cannot be run",
            make(&model, "none", "1/1", &[vec![1, 2], vec![1, 999]], Ablation::Zero, &Metric::Loss),
            BadInput,
            &["input 1: token id 999"],
        ),
        ("missing", merged(&["3", "1"]), BadInput, &["1 of 3 shards are missing: 2/3"]),
        ("twice", merged(&["1", "2", "again", "3"]), BadInput, &["shard 2/3 is there twice", "again"]),
        ("another cut", merged(&["1", "half"]), BadInput, &["is shard 1/3, and", "half is shard 1/2"]),
        (
            "another sweep",
            merged(&["1", "2", "other"]),
            BadInput,
            &["other is of another sweep: inputs 10, in", "11"],
        ),
        ("unfinished", merged(&["1", "2", "cut"]), BadInput, &["cut has 3 of its 4 inputs", "to go on"]),
        ("changed", merged(&["1", "2", "strange"]), File, &["line 3, is not the row of input 9"]),
        ("a short row", merged(&["1", "2", "short"]), File, &["line 2, is not the row of input 8"]),
        ("too many rows", merged(&["1", "2", "longer"]), File, &["longer is not a part"]),
        ("another version", merged(&["version"]), BadInput, &["format 3, and this is 2"]),
        ("sizes that overflow", merged(&["huge"]), BadInput, &["2 of 3 shards are missing: 1/3, 2/3"]),
        ("no part to merge", merged(&["text"]), File, &["text is not a part"]),
        ("bytes to merge", merged(&["bytes"]), File, &["bytes is not a part"]),
        ("an empty file", merged(&["empty"]), File, &["empty is not a part"]),
        ("no file", merged(&["nowhere"]), File, &["cannot read", "nowhere"]),
        ("a folder", merged(&["."]), File, &["not a part"]),
        ("nothing", merged(&[]), BadInput, &["no parts"]),
    ]);
    assert!(!place.path("none").exists(), "inputs are checked before the file is made");
    // Alone, so that nothing but its own sizes is wrong.
    let huge = String::from_utf8(place.read("huge")).expect("UTF-8").replace("\"3/3\"", "\"1/1\"");
    place.write("huge", huge);
    refused(vec![("sizes that overflow", merged(&["huge"]), File, &["line 2, is not the row of input 1"])]);
    let locked = fs::OpenOptions::new().append(true).open(place.path("1")).expect("it is there");
    locked.lock().expect("a lock");
    refused(vec![(
        "two at once",
        plain("1", "1/3"),
        File,
        &["another process is writing", "a file of its own"],
    )]);
    Ok(())
}

#[test]
fn prompts_that_cannot_be_run() {
    let place = place();
    let rows: &[(&[u8], &[&str])] = &[
        (b"", &["bad.txt is empty: there are no prompts"]),
        (b"\n", &["bad.txt is empty"]),
        (b"the cat\n\nthe dog\n", &["bad.txt, line 2, is blank"]),
        (b"the cat\r\n\r\nthe dog", &["bad.txt, line 2, is blank"]),
        (b"the cat\nthe \xff dog\n", &["bad.txt, line 2, is not UTF-8", "one prompt a line"]),
        (
            &[b"the cat\nthe dog\n".as_slice(), &b" cat".repeat(2000)].concat(),
            &["bad.txt, line 3: the input has", "at most"],
        ),
    ];
    for (bytes, fragments) in rows {
        place.write("bad.txt", bytes);
        let args = ["ablate", "built-in", "--prompts", "bad.txt", "--part", "x.part"];
        let output = call(&place, &args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
        for fragment in *fragments {
            assert!(said.contains(fragment), "no `{fragment}` in {said}");
        }
        assert!(!place.path("x.part").exists(), "{said}");
    }
    place.write("ids.txt", "1,2,3\n1,x\n");
    let rows: &[(&[&str], i32, &str)] = &[
        (&["loss", "built-in", "--prompts", "ids.txt", "--ids"], 1, "ids.txt, line 2: `x` is not a token id"),
        (&["loss", "built-in", "--prompts", "nowhere.txt"], 1, "cannot read nowhere.txt"),
        (&["loss", "built-in", "--prompts", "."], 1, "cannot read ."),
        (&["ablate", "built-in", "the", "--prompts", "prompts.txt"], 2, "--prompts"),
        (&["ablate", "built-in", "the", "--ids"], 2, "--prompts"),
        (&["ablate", "built-in", "the cat", "--shard", "1/2"], 2, "--part"),
        (&["ablate", "built-in", "the cat", "--part", "x", "--shard", "3/2"], 2, "there is no shard 3/2"),
        (&["ablate", "built-in", "the cat", "--part", "x", "--heads", "L0H0"], 2, "--heads"),
        (&["ablate", "built-in", "--prompts", "prompts.txt", "--mode", "mean"], 2, "--reference"),
        (&["merge"], 2, "<PART>"),
        (&["merge", "x.gif", "-o", "y.gif"], 1, "cannot read x.gif"),
    ];
    for (args, code, fragment) in rows {
        let output = call(&place, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {said}");
        assert!(said.contains(fragment), "{args:?}: no `{fragment}` in {said}");
    }
}

/// Each verb says after a merge what it says in one piece.
#[test]
fn verbs_in_parts() {
    let place = place();
    place.write("ids.txt", "\u{feff}1,2,3\r\n4,5,6,7\r\n8, 9\r\n");
    let rows: &[&[&str]] = &[
        &["ablate", "built-in", "--prompts", "prompts.txt"],
        &["ablate", "built-in", "--prompts", "ids.txt", "--ids", "--mode", "mean", "--reference", "the cat"],
        &["loss", "built-in", "--prompts", "prompts.txt", "--no-bos", "--folded"],
        &["heads", "built-in", "--batch", "3", "--length", "9", "--seed", "5"],
    ];
    for (i, args) in rows.iter().enumerate() {
        let names = [1, 2].map(|shard| format!("{i}-{shard}.part"));
        for (shard, name) in ["1/2", "2/2"].iter().zip(&names) {
            let said = out(&place, &[args, &["--part", name, "--shard", shard][..]].concat());
            assert!(said.contains(&format!("{name} has shard {shard}")), "{said}");
        }
        let merged = ["merge", &names[1], &names[0]];
        assert_eq!(out(&place, &merged), out(&place, args), "{args:?}");
        let json = |args: &[&str]| out(&place, &[args, &["--json"]].concat());
        assert_eq!(json(&merged), json(args), "{args:?}");
        let whole = format!("{i}.part");
        assert_eq!(out(&place, &[args, &["--part", &whole][..]].concat()), out(&place, args), "{args:?}");
        assert!(out(&place, &[&merged[..], &["-o", "x.html"]].concat()).contains("wrote x.html"));
        assert!(place.read("x.html").starts_with(b"<!"));
    }
}

/// What the documentation shows, run as it stands there.
#[cfg(unix)]
#[test]
fn the_documented_example() {
    let place = Folder::new();
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/big-work.md")).expect("the page");
    let blocks = |language: &str| -> Vec<&str> {
        let fence = format!("```{language}\n");
        let begins = text.split(&fence).skip(1);
        begins.filter_map(|rest| rest.split_once("```")).map(|(block, _)| block).collect()
    };
    let folder =
        PathBuf::from(env!("CARGO_BIN_EXE_headlight")).parent().expect("a folder").display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let run = |program: &str, code: &str, array: &str| -> String {
        let mut command = Command::new(program);
        command
            .args(["-c", code])
            .current_dir(place.name())
            .env("PATH", &path)
            .env("SLURM_ARRAY_TASK_ID", array);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{code}{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let [one, two] = blocks("sh")[..] else { panic!("two examples") };
    let whole = run("sh", one, "");
    let merged = run("sh", two, "");
    assert!(merged.contains(&whole), "{whole}\n{merged}");
    assert!(place.path("ablation.html").exists());
    let [slurm] = blocks("bash")[..] else { panic!("one script for Slurm") };
    for task in ["1", "2", "3", "4"] {
        run("bash", slurm, task);
    }
    assert_eq!(run("sh", "headlight merge ablation-*.part", ""), whole);
    let [python] = blocks("python")[..] else { panic!("one script in Python") };
    assert_eq!(
        run("python3", python, "").lines().last(),
        run("sh", "headlight merge all.part --json", "").lines().last()
    );
    let [parallel, ..] = blocks("text")[..] else { panic!("GNU parallel") };
    assert!(parallel.contains("--part ablation-{}.part --shard {}/4"), "{parallel}");
}
