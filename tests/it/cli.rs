//! The binary's habits: exit codes, what goes where, and the files that it writes.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::process::{Command, Output, Stdio};

use crate::common::folder::{Folder, Weight, Weights};
use headlight::{Ablation, Hook, Model, Result, Run, Site, head};
use safetensors::SafeTensors;
use serde_json::Value;

/// A model's folder that the binary runs in: 2 layers of 4 heads, with a tokenizer.
fn place() -> Folder {
    Folder::copy_of("tiny-gpt2-random").with_tokenizer()
}

fn command(place: &Folder, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headlight"));
    command.current_dir(place.name()).args(args);
    command
}

fn call(place: &Folder, args: &[&str]) -> Output {
    command(place, args).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The standard output of a call that must succeed and say nothing else.
fn out(place: &Folder, args: &[&str]) -> String {
    let output = call(place, args);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{args:?}");
    text(&output.stdout).to_string()
}

fn json(place: &Folder, args: &[&str]) -> Value {
    serde_json::from_str(&out(place, args)).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
}

/// The keys of the JSON example in a verb's help.
fn keys_of_help(place: &Folder, verb: &str) -> BTreeSet<String> {
    let help = out(place, &[verb, "--help"]);
    let example = help.split_once("JSON: ").expect("the help has an example of its JSON").1;
    let quoted: Vec<&str> = example.split('"').collect();
    let is_key = |pair: &[&str]| pair[1].trim_start().starts_with(':');
    quoted.windows(2).skip(1).step_by(2).filter(|pair| is_key(pair)).map(|pair| pair[0].to_string()).collect()
}

/// What a terminal shows of calls, each below its line.
fn session<A: AsRef<[&'static str]>>(place: &Folder, calls: &[A]) -> String {
    let shown = calls.iter().map(|args| {
        let args = args.as_ref();
        let line: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
        format!("$ headlight {}\n{}", line.join(" "), out(place, args))
    });
    shown.collect::<Vec<_>>().join("\n")
}

fn quoted(arg: &str) -> String {
    if arg.contains(' ') { format!("\"{arg}\"") } else { arg.to_string() }
}

#[test]
fn helps() {
    let place = place();
    let help: &str = out(&place, &["--help"]).leak();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = listed.map_while(|line| line.split_whitespace().next()).filter(|verb| *verb != "help");
    let calls: Vec<Vec<&str>> = verbs.map(|verb| vec![verb, "--help"]).collect();
    assert!(calls.len() > 10, "{help}");
    insta::assert_snapshot!(session(&place, &[vec![vec!["--help"]], calls].concat()));
}

#[test]
fn tables() {
    const TEXT: &str = "the cat sat the cat sat";
    let calls: [&[&str]; 7] = [
        &["heads", "built-in"],
        &["detect", "built-in"],
        &["loss", "built-in", TEXT],
        &["ablate", "built-in", TEXT],
        &["ablate", "built-in", TEXT, "--heads", "L1H0,L1H2", "--mode", "mean"],
        &["qk", "built-in", "L1H0", TEXT],
        &["composition", "built-in"],
    ];
    insta::assert_snapshot!(without_decimals(&session(&place(), &calls)));
}

/// The last digits differ from processor to processor; what numbers are, other tests hold.
fn without_decimals(text: &str) -> String {
    let mut decimals = false;
    let mut before = ' ';
    let masked = text.chars().map(|c| {
        decimals = c.is_ascii_digit() && decimals || c == '.' && before.is_ascii_digit();
        before = c;
        if decimals && c != '.' { '_' } else { c }
    });
    masked.collect()
}

#[test]
fn exit_codes_and_errors() {
    let place = place();
    // Arguments, the exit code, what the standard error holds.
    let rows: &[(&[&str], i32, &[&str])] = &[
        (&["heads", "nowhere"], 1, &["error: ", "`nowhere`", "help: "]),
        (&["heads", ".", "--length", "64"], 1, &["64 tokens", "help: the length is 3 to 63"]),
        (&["loss", ".", ""], 1, &["the text is empty", "help: "]),
        (&["loss", ".", "--tokens", "1,x"], 1, &["`x` is not a token id", "help: "]),
        (&["loss", ".", "--tokens", "1,160"], 1, &["id 160", "help: "]),
        (&["loss", ".", "--tokens", "1"], 1, &["one token", "help: "]),
        (&["attention", ".", "the cat", "--layer", "2"], 1, &["2 layers", "help: layers are 0 to 1"]),
        (&["attention", ".", "the cat", "-o", "x.gif"], 1, &["x.gif", "help: end it in one of html"]),
        (&["cache", ".", "the cat", "-o", "no/x.safetensors"], 1, &["no/x.safetensors", "help: "]),
        (&["cache", ".", "the cat", "--hooks", "x*", "-o", "x"], 1, &["`x*`", "help: "]),
        (&["cache", ".", "the", "the cat", "-o", "x"], 1, &["[2, 3] tokens", "help: "]),
        (&["generate", ".", "the cat", "-n", "500"], 1, &["500 are to be added", "help: set max_new_tokens"]),
        (&["generate", ".", "the cat", "--temperature", "nan"], 1, &["NaN", "help: "]),
        (&["generate", ".", "the", "cat"], 1, &["one text at a time", "help: "]),
        (&["report", ".", "-o", "no/report.html"], 1, &["no/report.html", "help: "]),
        (&["report", ".", "--text", "the cat", "--text", ""], 1, &["the text is empty", "help: "]),
        (&["nonsense"], 2, &["nonsense", "--help"]),
        (&["loss", "."], 2, &["<TEXT>", "--help"]),
        (&["loss", ".", "--no-bos"], 2, &["<TEXT>", "--help"]),
        (&["loss", ".", "the cat", "--tokens", "1,2"], 2, &["--tokens", "--help"]),
        (&["cache", ".", "the cat"], 2, &["--out", "--help"]),
        (&["cache", ".", "the", "-o", "x", "--all", "--hooks", "*"], 2, &["--hooks", "--help"]),
        (&["heads", ".", "--length", "many"], 2, &["many", "--length"]),
    ];
    for (args, code, fragments) in rows {
        let output = call(&place, args);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(*code), ""), "{args:?}: {said}");
        for fragment in *fragments {
            assert!(said.contains(fragment), "{args:?}: no `{fragment}` in {said}");
        }
    }
    assert!(!place.path("x").exists(), "a call that failed left a file");
    for args in [&["--help"][..], &["--version"], &["cache", "--help"]] {
        assert!(out(&place, args).contains("headlight"), "{args:?}");
    }
}

/// What is to be done is said in flags, not in calls of the library.
#[test]
fn errors_speak_of_the_command_line() {
    let place = Folder::copy_of("tiny-llama-random");
    place.set("max_position_embeddings", 4096.into());
    let ids = |count: usize| (0..count).map(|i| (i * 7 % 150).to_string()).collect::<Vec<_>>().join(",");
    let (long, longer) = (ids(600), ids(3000));
    let patch = |more: &[&'static str]| {
        let pair = ["patch", ".", "--ids", "--clean", "1,2,3", "--corrupted", "1,2,4", "--correct", "5"];
        [pair.as_slice(), more].concat()
    };
    let cases: [(Vec<&str>, &str); 8] = [
        (vec!["attention", ".", "--tokens", &long], "--head L0H3"),
        (vec!["attention", ".", "--tokens", &long, "--layer", "1"], "--head L0H3"),
        (vec!["attention", ".", "--tokens", "1,2", "--layer", "7"], "2 layers"),
        (vec!["qk", ".", "L0H1", "--tokens", "1,2", "--tokens", "3,4"], "give one text"),
        (vec!["generate", ".", "--tokens", "1,2", "--tokens", "3,4"], "one text at a time"),
        (patch(&["--incorrect", "900"]), "ids are 0 to 159"),
        (patch(&["--incorrect", "6", "--position", "9"]), "positions count from 0"),
        (patch(&["--incorrect", "6", "--site", "embed"]), "resid_pre"),
    ];
    let check = |output: Output, wanted: &str, what: &[&str]| {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what:?}: {said}");
        assert!(said.contains(wanted), "`{wanted}` is not in: {said}");
        for of_library in ["?`", "`.", "::", "(\"", "&model"] {
            assert!(!said.contains(of_library), "`{of_library}` is in: {said}");
        }
    };
    for (args, wanted) in &cases {
        check(call(&place, args), wanted, args);
    }
    let page = place.path("head.html");
    out(&place, &["attention", ".", "--tokens", &long, "--head", "L1H3", "-o", "head.html"]);
    assert!(std::fs::metadata(page).expect("it was written").len() < 5_000_000);
    // Two layers' scores and patterns are more than half a gigabyte.
    if cfg!(target_os = "linux") {
        let args = ["cache", ".", "--tokens", &longer, "-o", "out.safetensors"];
        let limited = Command::new("sh")
            .args(["-c", "ulimit -v 650000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_headlight")])
            .args(args)
            .env("RAYON_NUM_THREADS", "2")
            .current_dir(place.name())
            .output()
            .expect("the shell runs");
        assert!(text(&limited.stderr).contains("of memory, and"), "{}", text(&limited.stderr));
        check(limited, "--hooks", &args);
    }
}

#[test]
fn json_of_heads() {
    let place = place();
    let heads = json(&place, &["heads", ".", "--json", "--length", "9", "--batch", "2", "--seed", "5"]);
    assert_eq!([&heads["length"], &heads["batch"], &heads["seed"]], [9, 2, 5]);
    let list = heads["heads"].as_array().expect("a list");
    let names: Vec<&str> = list.iter().filter_map(|entry| entry["head"].as_str()).collect();
    assert_eq!(names, ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0", "L1H1", "L1H2", "L1H3"]);
    for (key, score) in list.iter().flat_map(|entry| entry.as_object().expect("an object")) {
        assert!(key == "head" || score.as_f64().is_some_and(|score| (0.0..=1.0).contains(&score)), "{key}");
    }
    let of_text = json(&place, &["heads", ".", "the cat sat the cat", "--json"]);
    let looks = of_text["heads"][0].as_object().expect("an object");
    assert_eq!((&looks["head"], looks["previous"].is_number()), (&"L0H0".into(), true));
    let all = [keys(&heads), keys(&list[0]), keys(&of_text["heads"][0])].into_iter().flatten().collect();
    let example = keys_of_help(&place, "heads");
    assert!(example.len() > 5 && example.is_subset(&all), "{example:?} of the help, {all:?} in truth");
    assert!(keys(&heads).is_subset(&example), "{example:?} of the help, {all:?} in truth");
    let table = out(&place, &["heads", "."]);
    assert!(names.iter().all(|name| table.contains(name)), "{table}");
}

/// Of a model whose links are known.
#[test]
fn json_of_alignments() {
    let place = place();
    place.write(
        "pairs.tsv",
        "the white cat sleeps .\tle chat blanc dort .\nwe find her .\tnous la trouvons .\n",
    );
    place.write("links.txt", "1-1 3-2 2-3 4-4 5-5 2?1\n1-1 2-3 3-2 4-4\n");
    let args = ["align", "built-in-translator", "--pairs", "pairs.tsv", "--json"];
    let known = ["--gold", "links.txt", "--gold-from-1"];
    let found = json(&place, &[&args[..], &known, &["--causal", "none", "--shift", "0"]].concat());
    let list = found["heads"].as_array().expect("a list");
    // The best first; on so few words it need not be the best of all.
    assert_eq!((list.len(), &list[0]["head"], &list[0]["aer"]), (8, &"D0X0".into(), &0.0.into()));
    assert!(list.iter().all(|own| own["shift"] == 0 && own["causal_aer"].is_null()));
    // Eight words of nine are right.
    let best = list.iter().find(|own| own["head"] == "D1X0").expect("it is there");
    let near = |key: &str, value: f64| (best[key].as_f64().expect("a number") - value).abs() < 1e-9;
    assert!(near("precision", 8.0 / 9.0) && near("recall", 8.0 / 9.0) && near("aer", 1.0 / 9.0), "{best}");
    assert_eq!(
        keys(&found).union(&keys(&list[0])).cloned().collect::<BTreeSet<_>>(),
        keys_of_help(&place, "align")
    );
    let by_cause = json(&place, &[&args[..], &["--causal", "5"]].concat());
    let list = by_cause["heads"].as_array().expect("a list");
    assert_eq!(list.len(), 16);
    assert!(list[0]["causal_aer"].is_number(), "{by_cause}");
    let table =
        out(&place, &["align", "built-in-translator", "the white cat sleeps .", "le chat blanc dort ."]);
    assert!(table.contains("chat ← cat") && table.contains("all but D1X0"), "{table}");
    let written = json(&place, &["translate", "built-in-translator", "the white cat sleeps .", "--json"]);
    assert!(written.to_string().contains("le chat blanc dort ."), "{written}");
}

#[test]
fn json_of_models() {
    let place = place();
    let models = json(&place, &["models", "--json"]);
    let list = models["models"].as_array().expect("a list");
    let names = ["built-in", "built-in-sentiment", "built-in-translator", "gpt2"];
    assert_eq!([0, 1, 2, 3].map(|index| &list[index]["name"]), names);
    assert_eq!(list[3]["also"], serde_json::json!(["gpt2-small"]));
    let all: BTreeSet<String> = keys(&models).union(&keys(&list[3])).cloned().collect();
    assert_eq!(all, keys_of_help(&place, "models"));
    assert!(out(&place, &["models"]).contains("EleutherAI/pythia-70m"));
}

#[test]
fn json_of_loss() -> Result<()> {
    let place = place();
    let model = place.open()?;
    let one = json(&place, &["loss", ".", "the cat sat", "--json"]);
    assert_eq!(keys(&one), keys_of_help(&place, "loss"));
    let loss = one["loss"].as_f64().expect("a number");
    assert!((loss - f64::from(model.loss("the cat sat")?)).abs() < 1e-6);
    assert_eq!(one["tokens"], serde_json::json!(["<|endoftext|>", "the", " cat", " sat"]));
    assert_eq!(one["loss_per_token"].as_array().map(Vec::len), Some(3));
    let ids = |args: &[&str]| json(&place, &[&["loss", ".", "--json"], args].concat())["ids"].clone();
    assert_eq!(ids(&["the cat"]), serde_json::json!(model.to_tokens("the cat")?.ids()));
    assert_eq!(ids(&["the cat", "--no-bos"]), serde_json::json!(&model.to_tokens("the cat")?.ids()[1..]));
    assert_eq!(ids(&["--tokens", " 1, 2,3"]), serde_json::json!([1, 2, 3]));
    let several = json(&place, &["loss", ".", "the cat", "the cat sat", "--json"]);
    let lens = |entry: &Value| entry["ids"].as_array().map_or(0, Vec::len);
    assert_eq!(several.as_array().expect("a list").iter().map(lens).collect::<Vec<_>>(), [3, 4]);
    let folded = json(&place, &["loss", ".", "the cat sat", "--json", "--folded"]);
    assert!((folded["loss"].as_f64().expect("a number") - loss).abs() < 1e-4);
    assert!(folded["model"].as_str().is_some_and(|name| name.ends_with("folded")));
    assert!(out(&place, &["loss", ".", "the cat", "the cat sat"]).matches("loss ").count() >= 2);
    Ok(())
}

/// The tensors of a file and its metadata.
fn safetensors(place: &Folder, name: &str) -> (Weights, HashMap<String, String>) {
    let bytes = place.read(name);
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("sound");
    std::fs::copy(place.path(name), place.path("model.safetensors")).expect("copied");
    (place.weights(), header.metadata().clone().expect("metadata"))
}

/// Positions that turn queries and keys have no attention by themselves.
#[test]
fn qk_without_position_embeddings() {
    let folder = Folder::copy_of("tiny-neox");
    let args = ["qk", folder.name(), "L0H0", "--tokens", "0,1,2,3"];
    assert!(!out(&folder, &args).contains("by position alone"));
    let json: Value = serde_json::from_str(&out(&folder, &[&args[..], &["--json"]].concat())).expect("JSON");
    assert_eq!(json["previous_token_mass"], Value::Null);
    assert_eq!(json["pattern"][0][0], 1.0);
}

#[test]
fn cache() -> Result<()> {
    let (model, other) = (place(), Folder::new());
    let folder = model.name();
    let all: BTreeSet<String> = model.open()?.hooks().iter().map(Hook::to_string).collect();
    let shapes = |batch: &[usize], len: usize| -> Vec<(&str, Vec<usize>)> {
        let own = [
            ("hook_embed", vec![len, 64]),
            ("blocks.1.attn.hook_pattern", vec![4, len, len]),
            ("blocks.1.attn.hook_z", vec![len, 4, 16]),
            ("blocks.0.attn.hook_result", vec![len, 4, 64]),
            ("blocks.0.hook_q_input", vec![len, 4, 64]),
            ("blocks.0.ln1.hook_scale", vec![len, 1]),
            ("blocks.0.mlp.hook_post", vec![len, 256]),
            ("unembed.hook_out", vec![len, 160]),
        ];
        own.into_iter().map(|(name, shape)| (name, [batch, &shape].concat())).collect()
    };
    let one: &[&str] = &["cache", folder, "--tokens", "0,5,9,5", "--all", "-o", "one.safetensors"];
    let said = out(&other, one);
    assert!(said.contains(&all.len().to_string()) && said.contains("one.safetensors"), "{said}");
    let two = ["cache", folder, "--tokens", "1,2,3", "--tokens", "4,5,6", "--all", "-o", "two.safetensors"];
    out(&other, &two);
    let cases: [(&str, &str, &[usize], usize); 2] =
        [("one.safetensors", "[0,5,9,5]", &[], 4), ("two.safetensors", "[[1,2,3],[4,5,6]]", &[2], 3)];
    for (file, ids, batch, len) in cases {
        let (tensors, metadata) = safetensors(&other, file);
        assert_eq!(tensors.keys().cloned().collect::<BTreeSet<_>>(), all, "{file}");
        for (name, shape) in shapes(batch, len) {
            assert_eq!(tensors[name].shape, shape, "{file}: {name}");
        }
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(parse(&metadata["tokens"]), parse(ids), "{file}");
        assert_eq!(Run::open(other.path(file))?.hooks().len(), all.len(), "{file}");
    }
    // What is kept, and the number of tokens, of `the cat sat`.
    let glob = "blocks.*.attn.hook_pattern";
    let opt_in = Site::ALL.iter().filter(|site| site.is_opt_in()).count() * 2;
    let rows: &[(&[&str], usize, usize)] = &[
        (&["the cat sat"], all.len() - opt_in, 4),
        (&["the cat sat", "--all"], all.len(), 4),
        (&["the cat sat", "--hooks", glob], 2, 4),
        (&["the cat sat", "--hooks", glob, "--no-bos"], 2, 3),
        (&["the cat sat", "--hooks", "*", "--folded"], all.len(), 4),
    ];
    for (args, kept, tokens) in rows {
        out(&other, &[&["cache", folder, "-o", "x.safetensors"], *args].concat());
        let run = Run::open(other.path("x.safetensors"))?;
        assert_eq!((run.hooks().len(), run.tokens()[0].len()), (*kept, *tokens), "{args:?}");
    }
    let folded = Run::open(other.path("x.safetensors"))?.resid_post(1)?.to_vec()?;
    let expected = Model::open(folder)?.folded()?.run_with_cache("the cat sat")?.resid_post(1)?.to_vec()?;
    assert_eq!(folded, expected);
    Ok(())
}

#[test]
fn files_are_written() {
    let place = place();
    let begins = |name: &str, with: &[u8]| {
        let bytes = place.read(name);
        assert!(bytes.starts_with(with), "{name} begins with {:?}", &bytes[..bytes.len().min(20)]);
    };
    assert!(out(&place, &["report", ".", "-o", "r.html"]).contains("wrote r.html"));
    begins("r.html", b"<!");
    let own = ["report", ".", "--text", "the cat <b>", "--text", "the cat sat the cat", "-o", "own.html"];
    assert!(out(&place, &own).contains("wrote own.html"));
    let page = place.read("own.html");
    let page = text(&page);
    for (what, is_there) in [
        ("“the cat &lt;b&gt;”", true),
        ("“the cat sat the cat”", true),
        ("The original", false),
        ("cat <b>", false),
    ] {
        assert_eq!(page.contains(what), is_there, "{what}");
    }
    let figures: [(&str, &[u8]); 5] = [
        ("a.html", b"<!"),
        ("a.svg", b"<svg"),
        ("a.png", b"\x89PNG"),
        ("a.json", b"{"),
        ("a.txt", b"blocks.0.attn"),
    ];
    for (name, with) in figures {
        assert_eq!(out(&place, &["attention", ".", "the cat", "-o", name]), format!("wrote {name}\n"));
        begins(name, with);
    }
    assert!(out(&place, &["attention", ".", "the cat", "the", "--layer", "1"]).matches("L1H3").count() >= 2);
    let generated =
        out(&place, &["generate", ".", "the cat", "-n", "5", "--temperature", "0.9", "--seed", "3"]);
    assert_eq!(
        generated,
        out(&place, &["generate", ".", "the cat", "-n", "5", "--temperature", "0.9", "--seed", "3"])
    );
    // Without a verb: the report on the built-in model.
    assert!(out(&place, &[]).contains("wrote headlight-report.html"));
    begins("headlight-report.html", b"<!");
}

/// A reader that goes away is no error; a disk that is full is one.
#[test]
fn outputs_that_cannot_be_written() {
    let place = place();
    for stderr_too in [false, true] {
        let args: &[&str] = if stderr_too { &["heads", "nowhere"] } else { &["heads", ".", "--json"] };
        let mut child = command(&place, args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        drop(child.stdout.take());
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("piped");
        if !stderr_too {
            stderr.read_to_string(&mut said).expect("UTF-8");
        }
        drop(stderr);
        let status = child.wait().expect("it ends");
        assert_eq!((status.code(), said.as_str()), (Some(i32::from(stderr_too)), ""), "{args:?}");
    }
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let output = command(&place, &["heads", "."]).stdout(full).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("help: check that the disk has room"));
    }
}

/// Models at the edge of what there can be: the least context, no tokenizer, one head.
#[test]
fn reports_on_small_models() {
    type Change = fn(&Folder);
    let rows: [(&str, Change); 3] = [
        ("no tokenizer", |f| f.remove("tokenizer.json")),
        ("one head", |f| f.set("n_head", serde_json::json!(1))),
        ("a context of 7", |f| {
            f.set("n_positions", serde_json::json!(7));
            f.change_weights(|all| {
                let positions = all.get_mut("transformer.wpe.weight").expect("it is there");
                *positions = Weight::f32(&[7, 64], &positions.values()[..448]);
            });
        }),
    ];
    for (what, change) in rows {
        let place = place();
        change(&place);
        assert!(out(&place, &["report", "."]).contains("wrote headlight-report.html"), "{what}");
        assert!(out(&place, &["heads", "."]).contains("L1H0"), "{what}");
        assert!(out(&place, &["attention", ".", "--tokens", "7", "-o", "a.png"]).contains("wrote"), "{what}");
    }
}

/// The verbs that change a model, against the library and against the help's own examples.
#[test]
fn json_of_interventions() -> Result<()> {
    let place = place();
    let model = place.open()?;
    let text = "the cat sat the cat sat";
    let ablated = json(&place, &["ablate", ".", text, "--heads", "L1H0,L0H2", "--mode", "mean", "--json"]);
    let reference = model.run_with_cache(text)?;
    let expected = model.ablate([head(1, 0), head(0, 2)], Ablation::Mean(&reference))?.loss(text)?;
    assert!((ablated["ablated_loss"].as_f64().expect("a number") - f64::from(expected)).abs() < 1e-5);
    assert_eq!(ablated["heads"], serde_json::json!(["L1H0", "L0H2"]));
    let effects = json(&place, &["ablate", ".", text, "--json"]);
    let alone = model.ablate(head(0, 1), Ablation::Zero)?.loss(text)? - model.loss(text)?;
    assert_eq!(effects["effects"][1]["head"], "L0H1");
    assert!((effects["effects"][1]["effect"].as_f64().expect("a number") - f64::from(alone)).abs() < 1e-5);
    let all = keys(&ablated).into_iter().chain(keys(&effects)).chain(["effect".into(), "head".into()]);
    assert_eq!(all.collect::<BTreeSet<_>>(), keys_of_help(&place, "ablate"));

    let pair = ["--clean", "the cat sat the cat", "--corrupted", "the cat sat the the"];
    let answers = ["--correct", " sat", "--incorrect", " cat", "--json"];
    for (site, axes) in [("z", ["layer", "head"]), ("resid_pre", ["layer", "position"])] {
        let patched = json(&place, &[&["patch", ".", "--site", site], &pair[..], &answers].concat());
        assert_eq!(patched["axes"], serde_json::json!(axes));
        assert_eq!(patched["patched"].as_array().map(Vec::len), Some(2));
        let (mut said, found) = (keys_of_help(&place, "patch"), keys(&patched));
        assert!(said.remove("panels") && found == said, "{said:?} of the help, {found:?} in truth");
    }
    let pair = ["--clean", "she takes the pretty keys .", "--corrupted", "she takes the pretty knives ."];
    let answers = ["--target", "elle prend les", "--correct", "jolies", "--incorrect", "jolis", "--json"];
    let patched = json(&place, &[&["patch", "built-in-translator"], &pair[..], &answers].concat());
    let panels = patched["panels"].as_array().expect("a list");
    let sites = ["encoder.attn.hook_z", "decoder.attn.hook_z", "decoder.cross_attn.hook_z"];
    assert_eq!([0, 1, 2].map(|index| &panels[index]["site"]), sites);
    assert!(patched["clean"].as_f64() > Some(8.0) && patched["corrupted"].as_f64() < Some(-8.0));
    // The head that brings the gender of a noun to its adjective.
    let patched = |head: usize| panels[0]["patched"][1][head].as_f64().expect("a number");
    assert!(patched(3) > 5.0 + patched(0).max(patched(1)).max(patched(2)), "{}", panels[0]["patched"]);
    let detected = json(&place, &["detect", ".", "--json"]);
    let all: BTreeSet<String> = keys(&detected).union(&keys(&detected["heads"][0])).cloned().collect();
    assert_eq!(all, keys_of_help(&place, "detect"));
    let qk = json(&place, &["qk", ".", "L1H2", text, "--json"]);
    assert_eq!(keys(&qk), keys_of_help(&place, "qk"));
    assert_eq!(qk["scores"][0][1], Value::Null, "a masked score");
    let pattern = model.run_with_cache(text)?.pattern(1)?.value(&[2, 3, 1])?;
    assert!((qk["pattern"][3][1].as_f64().expect("a number") - f64::from(pattern)).abs() < 1e-5);
    let composition = json(&place, &["composition", ".", "--json"]);
    assert_eq!(keys(&composition), BTreeSet::from(["q", "k", "v"].map(String::from)));
    assert_eq!(composition["k"][1][0][1][0], Value::Null, "not later");
    assert!(composition["k"][0][3][1][2].as_f64().is_some_and(|score| score > 0.0));
    let usage = call(&place, &["ablate", ".", text, "--mode", "resample"]);
    assert_eq!(usage.status.code(), Some(2), "resampling needs a reference");
    Ok(())
}
