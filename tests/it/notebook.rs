//! What Headlight's kernel, and evcxr's, are told by a cell. A cell is this program once more, with one test.

use std::process::Command;
use std::thread;
use std::time::Duration;

use headlight::Result;
use headlight::prelude::*;
use serde_json::Value;

const TOKEN: &str = "a-secret-token";

/// What a cell prints, its messages read and everything else left out.
fn messages(cell: &str) -> Vec<Value> {
    let printed = printed(cell, TOKEN);
    let lines = printed.lines().filter_map(|line| line.split_once(&format!("\u{1}{TOKEN} ")));
    lines.map(|(_, json)| serde_json::from_str(json).unwrap()).collect()
}

fn printed(cell: &str, token: &str) -> String {
    let cell = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("notebook::{cell}"), "--ignored", "--nocapture"])
        .env("HEADLIGHT_KERNEL", token)
        .output()
        .unwrap();
    assert!(cell.status.success(), "{}", String::from_utf8_lossy(&cell.stderr));
    String::from_utf8(cell.stdout).unwrap()
}

fn scores() -> Result<NamedTensor> {
    NamedTensor::from_vec("scores", vec![0.1, 0.9], vec![Axis::unlabelled("head", 2)])
}

#[test]
#[ignore = "a cell"]
fn cell_that_shows() {
    let scores = scores().unwrap();
    let shown = show(&scores);
    shown.update(&scores.figure().unwrap());
    show(&scores).evcxr_display();
    clear_output();
    print!("in mid-line ");
    scores.evcxr_display();
}

#[test]
fn what_is_shown_is_told_in_order() {
    let messages = messages("cell_that_shows");
    let ops: Vec<&str> = messages.iter().map(|message| message["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["display", "update", "display", "clear", "result"]);
    assert_eq!(messages[0]["id"], messages[1]["id"]);
    assert_ne!(messages[0]["id"], messages[2]["id"]);
    assert_eq!(messages[3]["wait"], true);
    for message in [&messages[0], &messages[1], &messages[2], &messages[4]] {
        assert!(message["data"]["application/vnd.plotly.v1+json"]["data"].is_array());
        assert!(message["data"]["image/png"].as_str().unwrap().starts_with("iVBOR"));
        assert!(message["data"]["text/plain"].as_str().unwrap().contains("scores"));
    }
}

#[test]
fn evcxr_gets_blocks_and_no_updates() {
    let printed = printed("cell_that_shows", "");
    assert!(!printed.contains('\u{1}'));
    assert_eq!(printed.matches("EVCXR_BEGIN_CONTENT text/plain").count(), 3);
    assert_eq!(printed.matches("EVCXR_BEGIN_CONTENT image/png").count(), 3);
    assert_eq!(printed.matches("EVCXR_END_CONTENT").count(), 9);
}

#[test]
#[ignore = "a cell"]
fn cell_that_ends_in_a_value() {
    "text".evcxr_display();
    [1, 2][..].evcxr_display();
    Some(1).evcxr_display();
    Err::<(), _>("no").evcxr_display();
    #[allow(clippy::unit_arg)]
    ().evcxr_display();
    let scores = scores().unwrap();
    scores.evcxr_display();
    let borrowed = &scores;
    borrowed.evcxr_display();
    scores.figure().unwrap().evcxr_display();
}

#[test]
fn values_show_as_text_and_drawings_as_themselves() {
    let messages = messages("cell_that_ends_in_a_value");
    assert!(messages.iter().all(|message| message["op"] == "result"));
    let texts: Vec<&str> =
        messages[..4].iter().map(|message| message["data"]["text/plain"].as_str().unwrap()).collect();
    assert_eq!(texts, ["\"text\"", "[1, 2]", "Some(1)", "Err(\"no\")"]);
    assert_eq!(messages.len(), 7);
    assert!(messages[4..].iter().all(|message| message["data"]["image/png"].is_string()));
}

#[test]
#[ignore = "a cell"]
fn cell_that_takes_long() {
    let slow = Model::open("built-in").unwrap().edit(("resid_pre", 0), "slow", |x| {
        thread::sleep(Duration::from_millis(20));
        Ok(x.clone())
    });
    slow.unwrap().generate("the", &Sampling { max_new_tokens: 60, ..Sampling::default() }).unwrap();
}

#[test]
fn long_work_shows_how_far_it_is_and_leaves_nothing() {
    let messages = messages("cell_that_takes_long");
    let (first, last) = (&messages[0], messages.last().unwrap());
    assert_eq!(first["op"], "display");
    assert!(messages[1..].iter().all(|message| message["op"] == "update" && message["id"] == first["id"]));
    assert!(first["data"]["text/plain"].as_str().unwrap().starts_with("generating ━"), "{first}");
    assert!(first["data"]["text/html"].as_str().unwrap().contains("/60"), "{first}");
    assert_eq!(last["data"], serde_json::json!({"text/plain": ""}));
    assert!(messages.len() > 3);
    assert!(
        messages.iter().all(|message| !message["data"]["text/plain"].as_str().unwrap().contains("60/60"))
    );
}

#[test]
fn evcxr_and_terminals_get_no_bars_on_the_standard_output() {
    let printed = printed("cell_that_takes_long", "");
    assert!(!printed.contains("generating") && !printed.contains("EVCXR_"), "{printed}");
}
