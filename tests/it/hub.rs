//! Models of a hub, against one on the loopback: what is fetched, where it is kept, and what is said when it fails.

use crate::common::folder;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::folder::{Folder, small_bpe};
use crate::common::hub_server::{COMMIT, Fault, Server, etag};
use Fault::{All, Cut, Flip, Named, Silent, Stall, Status};
use headlight::{ErrorKind, Model, request_stop};
use serde_json::{Value, json};
use tempfile::TempDir;

const REPO: &str = "someone/tiny";
const WEIGHTS: &str = "model.safetensors";

/// A hub with one model, and a cache that is empty.
struct Place {
    server: Server,
    home: TempDir,
    files: BTreeMap<String, Vec<u8>>,
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let model = Folder::copy_of("tiny-gpt2-random");
    let (vocab, merges) = small_bpe(120);
    let mut files = BTreeMap::new();
    for name in ["config.json", WEIGHTS] {
        files.insert(name.to_string(), model.read(name));
    }
    files.insert("vocab.json".into(), vocab.to_string().into_bytes());
    files.insert("merges.txt".into(), merges.into_bytes());
    files
}

impl Place {
    fn new() -> Place {
        Place::with(files())
    }

    fn with(files: BTreeMap<String, Vec<u8>>) -> Place {
        let server = Server::start(files.clone(), 50_000);
        Place { server, home: tempfile::tempdir().expect("a folder"), files }
    }

    fn command(&self, model: &str, settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headlight"));
        command.args(["loss", model, "the cat sat", "--json"]);
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.server.endpoint).env("HF_HOME", self.home.path());
        command.envs(settings.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn call(&self, model: &str, settings: &[(&str, &str)]) -> Output {
        self.command(model, settings).output().expect("the binary runs")
    }

    fn opens(&self, what: &str, model: &str, settings: &[(&str, &str)]) {
        let output = self.call(model, settings);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {said}");
        let loss: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(loss["model"], model, "{what}");
        assert_eq!(loss["ids"].as_array().map(Vec::len), Some(4), "{what}: {loss}");
    }

    fn refuses(&self, what: &str, model: &str, settings: &[(&str, &str)], fragments: &[&str]) {
        let output = self.call(model, settings);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        for fragment in fragments.iter().chain(&["help: "]) {
            assert!(said.contains(fragment), "{what}: no `{fragment}` in {said}");
        }
        self.is_sound(what);
    }

    fn folder(&self, repo: &str) -> PathBuf {
        self.home.path().join("hub").join(format!("models--{}", repo.replace('/', "--")))
    }

    fn snapshot(&self, repo: &str) -> PathBuf {
        self.folder(repo).join("snapshots").join(COMMIT)
    }

    fn part(&self) -> PathBuf {
        self.folder(REPO).join("blobs").join(format!("{}.incomplete", etag(&self.files[WEIGHTS], true)))
    }

    /// Whatever can be opened is whole: each link of a snapshot leads to the bytes that the hub has.
    fn is_sound(&self, what: &str) {
        for name in self.files.keys() {
            let path = self.snapshot(REPO).join(name);
            if let Ok(found) = fs::read(&path) {
                assert_eq!(&found, &self.files[name], "{what}: {name}");
            }
            assert!(path.exists() || fs::symlink_metadata(&path).is_err(), "{what}: {name} leads nowhere");
        }
    }
}

/// The cache is laid out as Python's library does it, and is all that a second opening needs.
#[test]
fn first_and_second_time() {
    let place = Place::new();
    place.opens("first", REPO, &[]);
    for (name, bytes) in &place.files {
        let is_large = name == WEIGHTS;
        let blob = PathBuf::from("../../blobs").join(etag(bytes, is_large));
        assert_eq!(fs::read_link(place.snapshot(REPO).join(name)).expect("a link"), blob, "{name}");
        assert_eq!(&fs::read(place.snapshot(REPO).join(name)).expect("bytes"), bytes, "{name}");
    }
    let read = |path: &str| fs::read_to_string(place.folder(REPO).join(path)).ok();
    assert_eq!(read("refs/main").as_deref(), Some(COMMIT));
    assert_eq!(read(&format!(".no_exist/{COMMIT}/tokenizer.json")).as_deref(), Some(""));
    assert_eq!(fs::read_dir(place.folder(REPO).join("blobs")).expect("blobs").count(), 4);

    place.server.forget();
    place.opens("again", REPO, &[]);
    place.opens("again, with nobody there", REPO, &[("HF_ENDPOINT", "http://127.0.0.1:9")]);
    place.opens("offline", REPO, &[("HF_HUB_OFFLINE", "1")]);
    place.opens("by its commit", &format!("{REPO}@{COMMIT}"), &[]);
    let cache = place.home.path().join("hub").display().to_string();
    place.opens("by HF_HUB_CACHE", REPO, &[("HF_HUB_CACHE", &cache), ("HF_HOME", "/nowhere")]);
    assert!(place.server.log().is_empty(), "{:?}", place.server.log());

    let models = Command::new(env!("CARGO_BIN_EXE_headlight"))
        .args(["models", "--json"])
        .env("HF_HOME", place.home.path())
        .output()
        .expect("the binary runs");
    let models: Value = serde_json::from_slice(&models.stdout).expect("JSON");
    let list = models["models"].as_array().expect("a list");
    let ours = list.iter().find(|model| model["name"] == REPO).expect("what is in the cache is listed");
    let size: usize = place.files.values().map(Vec::len).sum();
    assert_eq!((&ours["cached_bytes"], &ours["layers"]), (&json!(size), &Value::Null));
    assert!(list.iter().any(|model| model["name"] == "gpt2" && model["cached"].is_null()));
}

/// What the cache of Python holds under an older name of the repository is taken.
#[test]
fn names_and_revisions() {
    let place = Place::new();
    place.opens("a revision", &format!("{REPO}@v1.0/rc"), &[]);
    assert!(
        place.folder(REPO).join("refs/v1.0/rc").exists() && !place.folder(REPO).join("refs/main").exists()
    );
    assert!(place.server.log().iter().any(|request| request.path.contains("/resolve/v1.0%2Frc/config.json")));
    place.opens("a repository that was renamed", "old/tiny", &[]);
    place.opens("an alias", "gpt2-small", &[]);
    assert!(place.snapshot("openai-community/gpt2").join(WEIGHTS).exists());
    fs::rename(place.folder("openai-community/gpt2"), place.folder("gpt2")).expect("renamed");
    place.server.forget();
    place.opens("an alias under its old name", "gpt2", &[]);
    assert!(place.server.log().is_empty());
    for (what, name, fragments) in [
        ("nearly a name", "pythia-7m", &["`pythia-7m`", "did you mean `pythia-"][..]),
        ("no revision", "someone/tiny@../x", &["`../x` cannot be a revision"]),
        ("a file that is not there", "someone/tiny.gguf", &["no model, folder or file"]),
        ("a path that is not there", "some/where/else", &["no model, folder or file"]),
    ] {
        place.refuses(what, name, &[], fragments);
    }
    assert!(place.server.log().is_empty(), "what is no name is asked for nowhere");
}

#[test]
fn tokens_go_to_the_hub_alone() {
    let place = Place::new();
    place.opens("with a token", REPO, &[("HF_TOKEN", "secret")]);
    fs::write(place.home.path().join("token"), "from-file\n").expect("written");
    place.opens("with a token in a file", &format!("{REPO}@two"), &[]);
    let log = place.server.log();
    let sent = |token: &str| log.iter().filter(|request| request.token.as_deref() == Some(token)).count();
    // The second revision is the same commit, whose files are there.
    assert!(sent("Bearer secret") > 3 && sent("Bearer from-file") == 1, "{log:?}");
    for request in &log {
        let is_elsewhere = request.host.starts_with("localhost");
        assert_eq!(is_elsewhere, request.token.is_none(), "{request:?}");
    }
}

/// A redirect to the hub's own address is followed with the token, one to another is not, be it but another port.
#[test]
fn redirects() {
    let token = [("HF_TOKEN", "secret")];
    let place = Place::new();
    place.opens("by an absolute address", "absolute/tiny", &token);
    let within = place.server.log().into_iter().filter(|request| !request.path.starts_with("/elsewhere/"));
    assert!(within.clone().any(|request| request.path.starts_with("/new/")));
    within.for_each(|request| assert_eq!(request.token.as_deref(), Some("Bearer secret"), "{request:?}"));

    let other = Server::start(files(), 50_000);
    place.server.sends_to(&other.endpoint);
    place.opens("bytes that lie at another port", REPO, &token);
    assert_eq!(other.gets(WEIGHTS).len(), 1);
    assert!(other.log().iter().all(|request| request.token.is_none()), "{:?}", other.log());
    other.forget();
    place.refuses("a hub at another port", "away/tiny", &token, &["names no commit"]);
    assert!(other.log().is_empty(), "{:?}", other.log());
}

/// What breaks is taken up where it broke.
#[test]
fn breaks() {
    let place = Place::new();
    place.server.faults(&[("GET", WEIGHTS, Cut(100_000))]);
    place.opens("a break", REPO, &[]);
    let ranges = |place: &Place| -> Vec<Option<String>> {
        let elsewhere =
            place.server.gets(WEIGHTS).into_iter().filter(|get| get.path.starts_with("/elsewhere"));
        elsewhere.map(|get| get.range).collect()
    };
    assert_eq!(ranges(&place), [None, Some("bytes=100000-".into())]);

    let place = Place::new();
    place.server.faults(&[Cut(60_000), Cut(0), Cut(0), Cut(0)].map(|fault| ("GET", WEIGHTS, fault)));
    place.refuses("breaks without end", REPO, &[], &["broke off after 60 kB of", "go on from there"]);
    assert_eq!(fs::metadata(place.part()).expect("what came is kept").len(), 60_000);
    assert!(!place.snapshot(REPO).join(WEIGHTS).exists());
    place.refuses("half of it, offline", REPO, &[("HF_HUB_OFFLINE", "1")], &[WEIGHTS, "HF_HUB_OFFLINE"]);
    place.server.forget();
    place.opens("the rest", REPO, &[]);
    assert_eq!(ranges(&place), [Some("bytes=60000-".to_string())]);
    assert!(!place.part().exists());

    let place = Place::new();
    place.server.faults(&[("GET", WEIGHTS, Cut(70_000)), ("GET", WEIGHTS, All)]);
    place.opens("a server that knows no ranges", REPO, &[]);

    let place = Place::new();
    fs::create_dir_all(place.part().parent().expect("a folder")).expect("made");
    fs::write(place.part(), vec![7; 3_000_000]).expect("written");
    place.opens("more than there is was there", REPO, &[]);

    let place = Place::new();
    place.server.faults(&[("GET", WEIGHTS, Stall(90_000, 4000))]);
    let begun = Instant::now();
    place.opens("a line that is silent for long", REPO, &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]);
    assert!(begun.elapsed() < Duration::from_secs(4) && ranges(&place).len() == 2);
}

#[test]
fn damage() {
    let place = Place::new();
    place.server.faults(&[("GET", WEIGHTS, Flip)]);
    let hash = etag(&place.files[WEIGHTS], true);
    place.refuses("a byte is another", REPO, &[], &["came damaged", &hash, "thrown away"]);
    assert!(!place.part().exists() && !place.snapshot(REPO).join(WEIGHTS).exists());
    place.opens("the next time", REPO, &[]);

    let place = Place::new();
    place.server.faults(&[("GET", "config.json", Flip)]);
    place.refuses("a small file", REPO, &[], &["config.json", "came damaged"]);

    let place = Place::new();
    fs::create_dir_all(place.part().parent().expect("a folder")).expect("made");
    fs::write(place.part(), vec![7; 1000]).expect("written");
    place.refuses("another file's beginning was there", REPO, &[], &["came damaged"]);
    place.opens("and then not", REPO, &[]);
}

/// Every answer that is no success, and what is said of it.
#[test]
fn refusals() {
    let config = "config.json";
    let busy = Status(429, "Retry-After: 1000\r\n");
    type Row = (&'static str, Vec<Fault>, &'static [(&'static str, &'static str)], &'static [&'static str]);
    let rows: [Row; 11] = [
        ("401", vec![Status(401, "")], &[], &["`someone/tiny`", "(401)", "HF_TOKEN"]),
        ("gated", vec![Status(403, "X-Error-Code: GatedRepo\r\n")], &[], &["accept its terms", "HF_TOKEN"]),
        (
            "404",
            vec![Status(404, "X-Error-Code: RepoNotFound\r\n")],
            &[],
            &["no repository", "check its name"],
        ),
        ("no config", vec![Status(404, "X-Error-Code: EntryNotFound\r\n")], &[], &["has no config.json"]),
        (
            "no revision",
            vec![Status(404, "X-Error-Code: RevisionNotFound\r\n")],
            &[],
            &["no revision `main`"],
        ),
        ("429", vec![busy], &[], &["asks to wait for 1000 s"]),
        ("503", vec![Status(503, ""); 4], &[], &["trouble of its own (503)", "try again later"]),
        (
            "a login page",
            vec![Status(200, "Content-Length: 5\r\n")],
            &[],
            &["names no commit", "HF_ENDPOINT"],
        ),
        ("a strange ETag", vec![Named("../../../x", COMMIT)], &[], &["names no ETag"]),
        ("a strange commit", vec![Named("abc", "../../x")], &[], &["names no commit"]),
        (
            "silence",
            vec![Silent(3000)],
            &[("HF_HUB_ETAG_TIMEOUT", "1")],
            &["silent for 1 s", "models--someone--tiny"],
        ),
    ];
    for (what, faults, settings, fragments) in rows {
        let place = Place::new();
        let faults: Vec<_> = faults.into_iter().map(|fault| ("HEAD", config, fault)).collect();
        place.server.faults(&faults);
        place.refuses(what, REPO, settings, fragments);
        assert!(place.server.gets("").is_empty(), "{what}: something was fetched");
    }
    let place = Place::new();
    let nobody = [("HF_ENDPOINT", "http://127.0.0.1:9")];
    place.refuses(
        "nobody",
        REPO,
        &nobody,
        &["cannot be asked", "models--someone--tiny", "`built-in` needs nothing"],
    );
    place.refuses("offline", REPO, &[("HF_HUB_OFFLINE", "1")], &["HF_HUB_OFFLINE is set"]);
    place.refuses(
        "no address",
        REPO,
        &[("HF_ENDPOINT", "huggingface.co")],
        &["HF_ENDPOINT is `huggingface.co`"],
    );
    assert!(place.server.log().is_empty());

    let place = Place::new();
    place.server.faults(&[
        ("HEAD", config, Status(429, "Retry-After: 1\r\n")),
        ("HEAD", config, Status(503, "")),
        ("GET", WEIGHTS, Status(502, "")),
    ]);
    let begun = Instant::now();
    place.opens("a hub that is busy for a while", REPO, &[]);
    assert!(begun.elapsed() > Duration::from_secs(1), "it asked to wait");
}

/// Several processes at once fetch each file once.
#[test]
fn together() {
    let place = Place::new();
    place.server.faults(&[("GET", WEIGHTS, Stall(80_000, 1500))]);
    let start = |_| place.command(REPO, &[]).spawn().expect("the binary runs");
    let all: Vec<_> = (0..3).map(start).collect();
    for child in all {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let gets = place.server.gets(WEIGHTS);
    assert_eq!(gets.iter().filter(|get| get.path.starts_with("/elsewhere")).count(), 1, "{gets:?}");
    place.is_sound("together");
}

#[test]
fn shards() {
    let mut all = files();
    let whole = all.remove(WEIGHTS).expect("the weights");
    let map =
        |name: &str| json!({"weight_map": {"a": name, "b": "second.safetensors"}}).to_string().into_bytes();
    all.insert("first.safetensors".into(), whole);
    all.insert("second.safetensors".into(), folder::with_header("{}", &[]));
    all.insert("model.safetensors.index.json".into(), map("first.safetensors"));
    Place::with(all.clone()).opens("shards", REPO, &[]);
    all.insert("model.safetensors.index.json".into(), map("third.safetensors"));
    Place::with(all.clone()).refuses("a missing shard", REPO, &[], &["has no third.safetensors"]);
    all.insert("model.safetensors.index.json".into(), map("../x.safetensors"));
    Place::with(all).refuses("a shard elsewhere", REPO, &[], &["`../x.safetensors`", "not in its folder"]);
}

/// The other half of [`stopped`], which has an environment of its own.
#[test]
#[ignore = "it is run by the test `stopped`"]
fn stopped_in_a_process_of_its_own() {
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(700));
        request_stop();
    });
    let begun = Instant::now();
    let error = Model::open(REPO).expect_err("it is stopped");
    assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
    assert!(begun.elapsed() < Duration::from_millis(1700), "it took {:?}", begun.elapsed());
    println!("{error}");
}

/// A download that is stopped keeps what came, in whatever it was waiting.
#[test]
fn stopped() {
    let rows = [
        ("in mid-file", ("GET", WEIGHTS, Stall(90_000, 5000)), "was stopped after 90 kB of"),
        ("before an answer", ("HEAD", WEIGHTS, Silent(5000)), "asking the hub was stopped"),
        (
            "while it waits",
            ("HEAD", "config.json", Status(429, "Retry-After: 20\r\n")),
            "waiting for the hub was stopped",
        ),
    ];
    for (what, fault, said) in rows {
        let place = Place::new();
        place.server.faults(&[fault]);
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "hub::stopped_in_a_process_of_its_own", "--ignored", "--nocapture"])
            .env("HF_ENDPOINT", &place.server.endpoint)
            .env("HF_HOME", place.home.path())
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(said), "{what}: {text}");
        place.is_sound(what);
        if what == "in mid-file" {
            assert_eq!(fs::metadata(place.part()).expect("it is kept").len(), 90_000);
        }
        place.server.forget();
        place.opens(what, REPO, &[]);
    }
}
