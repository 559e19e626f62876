"""What a notebook sees of the kernel: what stock kernels for Rust get wrong, and what the protocol asks for.

Most tests share one kernel; those that end its process, or count its cells, have one of their own. Bounds on time are
wide: they tell a kernel that hangs from one that works, on a machine that does other things as well.
"""

import base64
import glob
import hashlib
import hmac
import json
import os
import re
import signal
import time

import nbformat
import psutil
import pytest
import zmq
from jupyter_kernel_test.msgspec_v5 import validate_message
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from cells import NAME, START, Kernel, crate, gone, is_notice, model_works

PLOTLY = "application/vnd.plotly.v1+json"
# As long as nobody stops it.
ENDLESS = """println!("running");
for _ in 0..1000 {
    slow.generate("the", &Sampling { max_new_tokens: 250, ..Sampling::default() })?;
}"""
DEAF = 'println!("running");\nloop { std::hint::black_box(()); }'
# The compiler works on this for minutes, and rust-analyzer passes it over.
HARD = """#[allow(long_running_const_eval)]
const N: u64 = { let mut i = 0u64; while i < 1_000_000_000_000 { i += 1; } i };
println!("{N}");"""


def stops(kernel, outcome, seconds):
    """Interrupts, and expects an end within some time."""
    asked = time.monotonic()
    kernel.interrupt()
    kernel.finish(outcome)
    took = time.monotonic() - asked
    assert outcome.status == "error", outcome
    assert took < seconds, f"it took {took:.1f} s to stop: {outcome}"
    return outcome


# Ready at once


def test_kernel_info_is_answered_while_it_warms_up_and_a_first_cell_waits():
    with Kernel(wait=False) as kernel:
        id = kernel.client.kernel_info()
        content = kernel.reply(id, 20)["content"]
        seconds = time.monotonic() - kernel.began
        print(f"kernel_info after {seconds:.2f} s")
        assert seconds < 3
        assert content["status"] == "ok"
        assert content["language_info"]["name"] == "rust"
        assert content["language_info"]["file_extension"] == ".rs"
        assert content["protocol_version"].startswith("5.")
        assert content["banner"]
        # At once, without `use` and without `:dep`.
        first = kernel.ok('Model::open("built-in")?.dims().n_layers', START)
        assert first.result == "2"
        print(f"first cell after {first.seconds:.2f} s")
        if first.seconds > 4:
            notices = [content for content in first.of("display_data") if is_notice(content)]
            assert notices, f"nothing was said while it waited: {first}"
            updates = [content for content in first.of("update_display_data") if is_notice(content)]
            assert updates[-1]["data"]["text/plain"] == "", "the notice stays"
        second = kernel.ok("1 + 1")
        assert not second.displays and second.result == "2"


def test_cells_sent_before_it_is_ready_run_in_their_order():
    with Kernel(wait=False) as kernel:
        kernel.reply(kernel.client.kernel_info(), 20)
        cells = [kernel.send(f"let mut x = {n};" if n == 0 else f"x += {n}; println!(\"x = {{x}}\");") for n in range(3)]
        # Gathers them all as they come: each is told apart by its parent.
        replies = [kernel.reply(cell.id, START)["content"] for cell in cells]
        assert [reply["status"] for reply in replies] == ["ok"] * 3
        assert [reply["execution_count"] for reply in replies] == [1, 2, 3]
        assert kernel.ok("x").result == "3"


def test_two_kernels_at_once(kernel):
    with Kernel() as other:
        here = kernel.send('let whose = "here";\nstd::thread::sleep(std::time::Duration::from_millis(300));')
        there = other.send('let whose = "there";')
        other.finish(there, START)
        kernel.finish(here)
        assert (kernel.ok("whose").result, other.ok("whose", START).result) == ('"here"', '"there"')
        other.stop()
    model_works(kernel)


# Honest states


def test_a_panic_is_an_error_and_keeps_what_was_there(kernel):
    kernel.ok("let kept = vec![1, 2, 3];")
    outcome = kernel.fails('let a = 1;\n\npanic!("oh {a}");')
    assert outcome.error["ename"] == "panic"
    assert outcome.error["evalue"] == "oh 1"
    reply = outcome.reply["content"]
    assert (reply["ename"], reply["evalue"], reply["traceback"]) == tuple(
        outcome.error[key] for key in ("ename", "evalue", "traceback")
    )
    assert "line 3" in outcome.traceback and 'panic!("oh {a}");' in outcome.traceback
    assert outcome.err == "", "the panic is told twice"
    assert kernel.ok("kept.len()").result == "3"
    model_works(kernel)


def test_a_panic_in_a_function_of_an_earlier_cell_names_its_line(kernel):
    defined = kernel.ok('fn fragile(n: usize) -> usize {\n    let v = vec![1];\n    v[n]\n}')
    outcome = kernel.fails("let n = 7;\nfragile(n)")
    assert "index out of bounds" in outcome.error["evalue"]
    assert f"cell {defined.reply['content']['execution_count']}, line 3" in outcome.traceback, outcome.traceback


def test_a_panic_that_is_caught_is_no_error(kernel):
    outcome = kernel.ok('std::thread::spawn(|| { panic!("elsewhere"); }).join().is_err()')
    assert outcome.result == "true"
    assert "elsewhere" in outcome.err
    assert kernel.ok('std::panic::catch_unwind(|| { panic!("caught") }).is_err()').result == "true"


# Types that rust-analyzer writes without the paths of their traits: the variable, a later cell, what it gives.
@pytest.mark.parametrize(
    "code, name, later, result",
    [
        ("let r = std::thread::spawn(|| 5).join();", "r", "r.is_err()", "false"),
        ("let mut r = std::thread::spawn(|| 5).join();", "r", "r = Ok(6); r.unwrap()", "6"),
        ("let (a, r) = (1, std::thread::spawn(|| 5).join());", "r", "(a, r.is_ok())", "(1, true)"),
        ('let e = Box::<dyn std::error::Error>::from("no");', "e", "e.to_string()", '"no"'),
        ('fn fails() -> std::result::Result<u8, Box<dyn std::error::Error>> { Err("no".into()) }\nlet e = fails();', "e", "e.is_err()", "true"),
        ("fn out() -> Box<dyn std::io::Write> { Box::new(Vec::new()) }\nlet w = out();", "w", "std::mem::size_of_val(&w)", "16"),
        ("fn out() -> Box<dyn std::fmt::Write> { Box::new(String::new()) }\nlet w = out();", "w", "std::mem::size_of_val(&w)", "16"),
        ("trait Own { fn n(&self) -> u8 { 3 } }\nimpl Own for u8 {}\nfn own() -> Box<dyn Own> { Box::new(1u8) }\nlet o = own();", "o", "o.n()", "3"),
        ("let f: Box<dyn Fn(i32) -> i32> = Box::new(|x| x + 1);", "f", "f(2)", "3"),
        ("let d: std::sync::Arc<dyn std::any::Any + Send + Sync> = std::sync::Arc::new(1);", "d", "d.is::<i32>()", "true"),
    ],
)
def test_what_holds_a_trait_object_is_kept(kernel, code, name, later, result):
    kernel.ok(code)
    assert f"{name}:" in kernel.ok(":vars").result
    assert kernel.ok(later).result == result
    # As it is in the cell itself.
    assert kernel.ok(f"{code}\n{later}").result == result


@pytest.mark.parametrize(
    "code, name",
    [
        ('let joined = std::thread::spawn(|| { panic!("x"); }).join();', "joined"),
        ("let local = { #[derive(Debug)] struct Local; Local };", "local"),
        ("let closure = |x: i32| x + 1;", "closure"),
        ("let mapped = (0..3).map(|x| x + 1);", "mapped"),
        ("let text = String::from(\"a\");\nlet borrowed = text.as_str();", "borrowed"),
        ("let lock = std::sync::Mutex::new(1);\nlet guard = lock.lock().unwrap();", "guard"),
        ("fn hidden() -> impl Clone { 1 }\nlet opaque = hidden();", "opaque"),
    ],
)
def test_a_type_that_cannot_be_kept_is_told_in_the_users_words(kernel, code, name):
    # One whose type says less than it is.
    kernel.ok('let lasting = "of the program";')
    outcome = kernel.fails(code)
    told = outcome.traceback
    assert f"`{name}`" in told, f"it does not name the variable: {told}"
    assert re.search("type|reference|closure", told) and re.search("brace|explicit|wrap|{}", told), f"there is no remedy: {told}"
    assert "evcxr_" not in told and "put_variable" not in told, told


def test_a_question_mark_that_returns_an_error_is_an_error(kernel):
    kernel.ok('let before = 5;')
    outcome = kernel.fails('let z = 3;\n\n"q".parse::<i32>()?;')
    assert outcome.error["ename"] == "ParseIntError"
    assert outcome.error["evalue"] == "invalid digit found in string"
    assert "line 3" in outcome.traceback and '"q".parse::<i32>()?;' in outcome.traceback
    assert outcome.err == "", "the error is told twice"
    outcome = kernel.fails('model.run_with_cache("the cat")?.pattern(99)?')
    assert outcome.error["ename"] == "headlight::Error"
    assert "line 1" in outcome.traceback
    assert kernel.ok("before").result == "5"
    model_works(kernel)


def test_an_error_in_a_later_statement_of_a_line_names_the_line(kernel):
    outcome = kernel.fails('let a = "1"; let b = "q".parse::<i32>()?;')
    assert "line 1" in outcome.traceback and '"q".parse' in outcome.traceback, outcome.traceback
    outcome = kernel.fails('let p = 0;\nfor i in 0..3 { if i == 2 { panic!("at {i}"); } }')
    assert "line 2" in outcome.traceback, outcome.traceback
    outcome = kernel.fails('let v = vec![1]; let w = v; println!("{:?}", v);')
    assert "line 1" in outcome.traceback, outcome.traceback


def test_a_compile_error_is_told_once_with_the_users_lines_help_and_colours(kernel):
    kernel.ok("let unused = 1;\nfn helper() -> i32 { 1 }")
    outcome = kernel.fails('let fine = helper();\n\nlet s = String::from("a");\nlet t = s;\nprintln!("{s}");')
    report = outcome.traceback
    assert outcome.error["ename"] == "error[E0382]"
    assert "borrow of moved value" in outcome.error["evalue"]
    assert len(outcome.of("error")) == 1 and outcome.out == outcome.err == ""
    assert report.count("borrow of moved value") == 1
    assert "line 5" in report
    for number, text in [(3, 'let s = String::from("a");'), (4, "let t = s;"), (5, 'println!("{s}");')]:
        assert re.search(rf"^\s*{number} \| {re.escape(text)}", report, re.M), report
    assert "help:" in report and "clone" in report
    assert "\x1b[" in "".join(outcome.error["traceback"])
    assert "src/lib.rs" not in report and "evcxr" not in report.lower()


def test_each_of_several_compile_errors_is_told(kernel):
    outcome = kernel.fails("let a: i32 = \"x\";\nlet b: u8 = 'c';")
    assert "line 1" in outcome.traceback and "line 2" in outcome.traceback
    assert outcome.traceback.count("error[E0308]") == 2
    outcome = kernel.fails("let a = 1\nlet b = 2;")
    assert "expected `;`" in outcome.traceback


@pytest.mark.parametrize(
    "code, gone",
    [
        ('let moved = taken; panic!("after a move");', ["taken"]),
        ('let moved = taken; "q".parse::<i32>()?;', ["taken"]),
        ('panic!("before a move"); drop((taken, other));', ["taken", "other"]),
        ('let taken = 5; panic!("anew");', ["taken"]),
        ('let moved = taken; println!("running"); loop { check_stop()?; let _ = moved.len(); }', ["taken"]),
        ('let borrowed = &taken; panic!("{}", borrowed.len());', []),
        ('drop(taken.clone()); "q".parse::<i32>()?;', []),
    ],
)
def test_what_a_cell_that_fails_took_with_it_is_told(kernel, code, gone):
    kernel.ok("let taken = vec![1, 2, 3];\nlet other = String::from(\"o\");\nlet count = 7;")
    outcome = stops(kernel, kernel.running(code), 5) if "running" in code else kernel.fails(code)
    told = re.search(r"^(.*) (?:is|are) gone: the cell took", outcome.traceback, re.M)
    assert set(re.findall(r"`(\w+)`", told[1]) if told else []) == set(gone), outcome.traceback
    if gone:
        assert "The other variables of earlier cells are kept" in outcome.traceback and "&" in outcome.traceback
    elif "panic" in code:
        assert "The variables of earlier cells are kept." in outcome.traceback
    listed = kernel.ok(":vars").result
    for name in ("taken", "other", "count"):
        assert (f"{name}:" in listed) == (name not in gone), listed
    assert kernel.ok("count").result == "7"


def test_run_all_stops_at_an_error(kernel):
    codes = ["let before_all = 1;", 'panic!("stop here");', "let after_all = 2;", "after_all"]
    sent = [kernel.client.execute(code, stop_on_error=True) for code in codes]
    replies = [kernel.reply(id)["content"] for id in sent]
    assert [reply["status"] for reply in replies] == ["ok", "error", "aborted", "aborted"]
    time.sleep(0.3)
    assert kernel.ok("before_all").result == "1"
    kernel.fails("after_all")


def test_run_all_goes_on_if_asked_to(kernel):
    codes = ['panic!("go on");', "let went_on = 2;"]
    sent = [kernel.client.execute(code, stop_on_error=False) for code in codes]
    assert [kernel.reply(id)["content"]["status"] for id in sent] == ["error", "ok"]
    assert kernel.ok("went_on").result == "2"


def test_nbclient_stops_at_an_error():
    sources = ["let a = 1;", 'let b: i32 = "x".parse()?;', "a"]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources],
        metadata={"kernelspec": {"name": NAME, "display_name": NAME, "language": "rust"}},
    )
    client = NotebookClient(notebook, timeout=START, kernel_name=NAME)
    with pytest.raises(CellExecutionError) as raised:
        client.execute()
    assert raised.value.ename == "ParseIntError"
    counts = [cell["execution_count"] for cell in notebook.cells]
    assert counts == [1, 2, None]
    assert notebook.cells[1].outputs[-1]["output_type"] == "error"
    assert not notebook.cells[2].outputs
    nbformat.validate(notebook)


def test_counts_start_at_1_and_replies_have_all_fields(own):
    first = own.ok("1", START)
    assert first.reply["content"]["execution_count"] == 1
    assert first.of("execute_input")[0]["execution_count"] == 1
    assert first.of("execute_result")[0]["execution_count"] == 1
    failed = own.fails('panic!("x");')
    assert failed.reply["content"]["execution_count"] == 2
    # What is not kept in the history is not counted.
    assert own.ok("3", store_history=False).reply["content"]["execution_count"] == 2
    silent = own.ok("4", silent=True)
    assert silent.reply["content"]["execution_count"] == 2
    assert not silent.of("execute_input", "execute_result", "stream")
    own.ok("")
    last = own.ok("5")
    assert last.reply["content"]["execution_count"] == 3
    for outcome in (first, last):
        assert {"status", "execution_count", "payload", "user_expressions"} <= set(outcome.reply["content"])
    for outcome in (first, failed, silent, last):
        validate_message(outcome.reply, "execute_reply", outcome.id)
        for _, message in outcome.messages:
            validate_message(message, message["msg_type"], outcome.id)
        states = [content["execution_state"] for content in outcome.of("status")]
        assert states == ["busy", "idle"]


# Interrupt that keeps everything


def test_long_work_stops_and_keeps_the_model(kernel):
    kernel.ok("let kept_over_stop = 1;")
    outcome = stops(kernel, kernel.running(ENDLESS), 2)
    assert "stopped" in outcome.error["evalue"]
    assert "line 3" in outcome.traceback, outcome.traceback
    assert kernel.ok("kept_over_stop").result == "1"
    model_works(kernel)


@pytest.mark.parametrize(
    "work",
    [
        'ablation_effects(&slow, "the cat sat the cat sat", Ablation::Zero, &Metric::Loss)?;',
        "induction_scores(&slow)?;",
        "check_stop()?;",
    ],
)
def test_each_kind_of_long_work_stops(kernel, work):
    stops(kernel, kernel.running(f'println!("running");\nloop {{\n    {work}\n}}'), 3)
    model_works(kernel)


def test_code_that_does_not_listen_ends_after_a_while_and_what_is_lost_is_said(kernel):
    kernel.ok("fn kept_function() -> i32 { 11 }\nlet lost = 1;")
    outcome = stops(kernel, kernel.running(DEAF), 12)
    assert "lost" in outcome.traceback and "functions" in outcome.traceback, outcome.traceback
    assert kernel.ok("kept_function()").result == "11"
    kernel.fails("lost")
    kernel.ok('let model = Model::open("built-in")?;')
    model_works(kernel)


def test_a_compilation_stops_and_nothing_is_lost(kernel):
    kernel.ok("let not_lost = 5;")
    outcome = kernel.send(HARD)
    assert not kernel.listen(outcome, lambda _: False, 2.5)
    stops(kernel, outcome, 3)
    assert "compil" in outcome.error["evalue"]
    assert "Nothing is lost" in outcome.traceback
    compilers = [process for process in kernel.processes() if "rustc" in process.name() or "cargo" in process.name()]
    assert not gone(compilers, 3), "the compiler goes on"
    assert kernel.ok("not_lost").result == "5"
    model_works(kernel)


def test_the_build_of_a_dependency_stops_and_nothing_is_lost(kernel, tmp_path):
    kernel.ok("let over_build = 6;")
    build = "fn main() { std::thread::sleep(std::time::Duration::from_secs(300)); }"
    line = crate(tmp_path / "tardy", "tardy", "pub fn f() -> i32 { 1 }", build)
    outcome = kernel.send(f"{line}\ntardy::f()")
    told = lambda message: message["msg_type"] in ("display_data", "update_display_data") and "tardy" in str(message["content"]["data"])
    assert kernel.listen(outcome, told, 60), f"it does not say what it builds: {outcome}"
    time.sleep(1)
    stops(kernel, outcome, 3)
    left = [process for process in kernel.processes() if "build-script" in process.name() or "cargo" in process.name()]
    assert not gone(left, 3), "the build goes on"
    assert kernel.ok("over_build", START).result == "6"
    model_works(kernel)


def test_ten_interrupts_in_a_row_leave_it_healthy(kernel):
    kernel.ok("let through_ten = 10;")
    for _ in range(10):
        stops(kernel, kernel.running(ENDLESS), 3)
    outcome = kernel.running(ENDLESS)
    for _ in range(10):
        kernel.interrupt()
    kernel.finish(outcome, 15)
    assert outcome.status == "error"
    assert kernel.ok("through_ten").result == "10"
    model_works(kernel)


def test_an_interrupt_of_nothing_stops_nothing(kernel):
    for _ in range(3):
        kernel.interrupt()
        # It goes another way than cells do, and may else come after the next one.
        time.sleep(0.5)
        assert kernel.ok("20 + 1").result == "21"
    model_works(kernel)


def test_an_interrupt_ends_run_all(kernel):
    first = kernel.running(ENDLESS)
    later = [kernel.client.execute(code) for code in ("let too_late = 1;", "too_late")]
    stops(kernel, first, 3)
    assert [kernel.reply(id)["content"]["status"] for id in later] == ["aborted", "aborted"]


# Live output


def test_figures_and_text_come_in_their_order(kernel):
    outcome = kernel.ok(
        'for text in ["the cat", "the dog", "the king", "the queen"] {\n    println!("before {text}");\n'
        '    show(&model.run_with_cache(text)?.pattern(0)?);\n}\nprintln!("after");\nmodel.run_with_cache("the end")?.pattern(1)?'
    )
    order = []
    for _, message in outcome.messages:
        if message["msg_type"] == "stream":
            order += message["content"]["text"].splitlines()
        elif message["msg_type"] in ("display_data", "execute_result"):
            order.append(message["msg_type"])
    expected = [line for text in ("cat", "dog", "king", "queen") for line in (f"before the {text}", "display_data")]
    assert order == [*expected, "after", "execute_result"]


def test_a_figure_shows_everywhere(kernel):
    outcome = kernel.ok('let run = model.run_with_cache("the cat sat")?;\nshow(&run.pattern(0)?);\nrun.pattern(1)?')
    displayed, result = outcome.displays[0], outcome.of("execute_result")[0]
    assert set(displayed["transient"]) <= {"display_id"}
    assert result.get("transient", {}) == {}
    for content in (displayed, result):
        data = content["data"]
        assert set(data) == {PLOTLY, "image/png", "text/plain"}
        assert isinstance(data[PLOTLY], dict) and data[PLOTLY]["data"] and "layout" in data[PLOTLY]
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG\r\n\x1a\n")
        assert "hook_pattern" in data["text/plain"]
        # A size, at most.
        assert set(content["metadata"]) <= {"image/png"}


def test_a_figure_is_updated_in_place(kernel):
    outcome = kernel.ok(
        'let run = model.run_with_cache("the cat sat")?;\nlet shown = show(&run.pattern(0)?);\n'
        'println!("between");\nshown.update(&run.pattern(1)?);'
    )
    kinds = [message["msg_type"] for _, message in outcome.messages if message["msg_type"] not in ("status", "execute_input")]
    assert kinds == ["display_data", "stream", "update_display_data"]
    shown, updated = outcome.of("display_data")[0], outcome.of("update_display_data")[0]
    assert shown["transient"]["display_id"] == updated["transient"]["display_id"]
    assert shown["data"][PLOTLY] != updated["data"][PLOTLY]
    # The handle is a value like others: a later cell may use it.
    later = kernel.ok("shown.update(&run.pattern(0)?);")
    assert later.of("update_display_data")[0]["transient"] == shown["transient"]


def test_output_is_cleared(kernel):
    outcome = kernel.ok('for i in 0..3 {\n    clear_output();\n    println!("{i}");\n}')
    assert [content["wait"] for content in outcome.of("clear_output")] == [True] * 3
    kinds = [message["msg_type"] for _, message in outcome.messages if message["msg_type"] in ("stream", "clear_output")]
    assert kinds == ["clear_output", "stream"] * 3


def test_text_without_a_newline_appears_at_once(kernel):
    outcome = kernel.ok('print!("half");\nstd::thread::sleep(std::time::Duration::from_secs(3));\nprintln!(" whole");')
    at = outcome.when(lambda message: message["msg_type"] == "stream")
    assert outcome.out == "half whole\n"
    assert at < outcome.seconds - 2, f"seen after {at:.1f} of {outcome.seconds:.1f} s"


def test_carriage_returns_arrive(kernel):
    outcome = kernel.ok(
        'for i in 0..4 {\n    print!("\\r{i}0 %");\n    std::thread::sleep(std::time::Duration::from_millis(300));\n}\neprint!("\\rend");'
    )
    assert outcome.out == "\r00 %\r10 %\r20 %\r30 %"
    assert outcome.err == "\rend"
    assert len([content for content in outcome.of("stream") if content["name"] == "stdout"]) >= 3


def test_long_work_has_a_bar_that_moves_in_place(kernel):
    outcome = kernel.ok('slow.generate("the", &Sampling { max_new_tokens: 100, ..Sampling::default() })?;')
    assert len(outcome.displays) == 1
    bar, updates = outcome.displays[0], outcome.of("update_display_data")
    assert len(updates) >= 4
    assert {content["transient"]["display_id"] for content in updates} == {bar["transient"]["display_id"]}
    done = [re.search(r"(\d+)/100", content["data"]["text/plain"]) for content in [bar, *updates[:-1]]]
    counts = [int(found[1]) for found in done]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert any("/s" in content["data"]["text/plain"] and "left" in content["data"]["text/plain"] for content in updates)
    assert updates[-1]["data"]["text/plain"] == "", "the bar stays"
    first = outcome.when(lambda message: message["msg_type"] == "display_data")
    assert first < outcome.seconds - 0.8, "it came when the work was done"


def test_text_that_looks_like_the_kernels_own_is_text(kernel):
    lines = ['\x01wrong {"op":"done"}', "\x01", 'x\x010123456789abcdef {"op":"clear"}', "EVCXR_", "EVCXR_EXECUTION_COMPLETE", "EVCXR_INPUT"]
    code = "\n".join(f"println!(\"{{}}\", {json.dumps(line).replace('u0001', 'u{1}')});" for line in lines)
    outcome = kernel.ok(code)
    assert outcome.out == "".join(f"{line}\n" for line in lines)
    assert kernel.ok("1 + 1").result == "2"


def test_much_text_arrives_whole(kernel):
    outcome = kernel.ok('println!("{}", "x".repeat(1 << 20));')
    assert outcome.out == "x" * (1 << 20) + "\n"
    outcome = kernel.ok('for i in 0..100_000 { println!("line {i}"); }')
    assert outcome.out == "".join(f"line {i}\n" for i in range(100_000))
    outcome = kernel.ok('for i in 0..20_000 { eprintln!("é{i}"); }')
    assert outcome.err == "".join(f"é{i}\n" for i in range(20_000))
    assert len(outcome.messages) < 5000, "lines that wait together do not go out together"


def memory(kernel):
    return psutil.Process(kernel.pid).memory_info().rss


@pytest.mark.parametrize("shows", ['println!("{n} {}", "y".repeat(100))', 'eprint!("{n} {}", "y".repeat(100))', 'println!("{n} {}", "o".repeat(1000)); eprintln!("{n} {}", "e".repeat(1000))'])
def test_of_endless_text_the_ends_are_kept(kernel, shows):
    kernel.ok("1")
    before = memory(kernel)
    outcome = kernel.running(f'println!("running");\nlet mut n = 0u64;\nloop {{ n += 1; {shows}; check_stop()?; }}')
    assert not kernel.listen(outcome, lambda _: False, 4)
    grown = memory(kernel) - before
    stops(kernel, outcome, 10)
    text = outcome.out + outcome.err
    assert len(text) < 2_300_000 and grown < 200_000_000, (len(text), grown)
    assert len(re.findall(r"\[… [\d.]+ MB of text left out here …\]", text)) == 1
    # Meanwhile it says how much there is.
    assert [content for content in outcome.of("update_display_data") if "so far" in content["data"]["text/plain"]]
    told = [content for content in outcome.of("update_display_data") if is_notice(content)]
    assert told[-1]["data"]["text/plain"] == ""
    assert kernel.ok("1 + 1").result == "2"


def test_of_endless_figures_the_ends_are_kept(kernel):
    # A block of content, which any crate for evcxr may print.
    block = 'println!("EVCXR_BEGIN_CONTENT text/html\\n{n} {}\\nEVCXR_END_CONTENT", "f".repeat(1 << 20));'
    kernel.ok("1")
    before = memory(kernel)
    outcome = kernel.running(f'println!("running");\nlet mut n = 0;\nloop {{ n += 1; {block} check_stop()?; }}')
    told = lambda message: (re.search(r"(\d+) figures", str(message["content"].get("data"))) or [0, 0])[1]
    assert kernel.listen(outcome, lambda message: int(told(message)) > 60, 60)
    stops(kernel, outcome, 20)
    shown = [int(content["data"]["text/html"].split()[0]) for content in outcome.displays]
    assert len(shown) in range(60, 65) and shown[:31] == list(range(1, 32)), shown
    missing = int(re.search(r"\[… (\d+) figures left out here …\]", outcome.out)[1])
    assert missing == shown[-1] - len(shown) and shown[-31:] == list(range(shown[-31], shown[-1] + 1))
    assert memory(kernel) - before < 400_000_000


def test_endless_updates_and_clearing_need_no_memory(kernel):
    kernel.ok('let figure = model.run_with_cache("the cat sat")?.pattern(0)?;')
    before = memory(kernel)
    for work in ["shown.update(&figure);", 'clear_output();\nprintln!("{}", "z".repeat(1000));']:
        outcome = kernel.running(f'println!("running");\nlet shown = show(&figure);\nloop {{\n{work}\nstd::thread::sleep(std::time::Duration::from_millis(1));\ncheck_stop()?;\n}}')
        assert not kernel.listen(outcome, lambda _: False, 3)
        stops(kernel, outcome, 20)
        assert "left out" not in outcome.out
    assert memory(kernel) - before < 300_000_000


# Crashes


@pytest.mark.parametrize(
    "code",
    [
        "std::process::abort();",
        "fn deep(n: u64) -> u64 { 1 + deep(std::hint::black_box(n) + 1) }\nprintln!(\"{}\", deep(1));",
        "std::process::exit(3);",
    ],
)
def test_a_crash_is_an_error_that_says_what_is_lost(kernel, code):
    kernel.ok("fn survivor() -> i32 { 9 }")
    outcome = kernel.fails(f'println!("before");\n{code}')
    assert outcome.out == "before\n"
    assert "lost" in outcome.traceback
    assert kernel.ok("survivor()").result == "9"


# The rest of the protocol


def test_completion(kernel):
    kernel.ok('let run = model.run_with_cache("the cat")?;')
    found = kernel.complete("model.run_with")
    assert {"run_with_cache", "run_with_options", "run_with_tap"} == set(found["matches"])
    assert (found["cursor_start"], found["cursor_end"]) == (6, 14)
    types = found["metadata"]["_jupyter_types_experimental"]
    assert [item["text"] for item in types] == found["matches"]
    assert all(item["type"] for item in types)
    assert any("input" in (item["signature"] or "") for item in types)
    # Of a variable of the cell itself, in its midst, after a character of several bytes.
    code = 'let é = "ü";\nlet r = run.patt;\n1 + 1'
    found = kernel.complete(code, code.index(";\n1"))
    assert "pattern" in found["matches"]
    assert code[found["cursor_start"] : found["cursor_end"]] == "patt"
    everything = kernel.complete("model.")
    assert "dims" in everything["matches"]
    # A field, and methods of the crate itself.
    private = {"eos", "execute", "labels", "norm", "layer_axis"}
    assert not private & set(everything["matches"])
    assert not [name for name in everything["matches"] if "…" in name]
    # What is private in the variable's type, though another type has it in public; also of the cell's own variable, and where
    # a text says that word.
    kernel.ok('println!("a whole digest");')
    private = {"activations", "batch", "digest", "named", "pieces", "raw", "single", "whole"}
    for code in ["run.", 'let other = model.run_with_cache("the")?;\nother.']:
        names = set(kernel.complete(code)["matches"])
        assert "pattern" in names and not private & names, (code, private & names)


def test_completion_and_inspection_wait_for_the_kernel_to_start():
    with Kernel(wait=False) as kernel:
        kernel.reply(kernel.client.kernel_info(), 20)
        ids = [kernel.client.complete("Model::op", 9), kernel.client.inspect("Model::open", 11)]
        completed, inspected = [kernel.reply(id, 40)["content"] for id in ids]
        print(f"completed after {time.monotonic() - kernel.began:.2f} s")
        assert "open" in completed["matches"]
        assert "built-in" in inspected["data"]["text/plain"]


def test_inspection(kernel):
    kernel.ok('let run = model.run_with_cache("the cat")?;')
    for code, cursor, expected in [
        ("Model::open", 11, "built-in"),
        ("Model::open", 9, "built-in"),
        ('let m = Model::open("built-in")?;', 17, "built-in"),
        ('model.run_with_cache("the cat")?', 12, "activation"),
        ("show(&run)", 2, "show"),
        ("model", 3, "Model"),
    ]:
        found = kernel.inspect(code, cursor)
        assert found["found"], f"nothing known of {code!r} at {cursor}"
        assert expected in found["data"]["text/plain"], (code, cursor, found["data"]["text/plain"][:300])
    docs = kernel.inspect("Model::open", 11)["data"]
    assert 'Model::open("built-in")?;' in docs["text/plain"] and "<code" in docs["text/html"], "the docs have no example"
    assert "# Ok::" not in docs["text/plain"] + docs["text/html"], "lines that rustdoc hides are shown"
    assert kernel.inspect("no_such_name", 4)["found"] is False


def test_completion_and_inspection_answer_while_a_cell_runs(kernel):
    outcome = kernel.running(ENDLESS)
    try:
        for ask in (lambda: kernel.complete("model.ru"), lambda: kernel.inspect("Model::open", 11), lambda: kernel.is_complete("1 +")):
            asked = time.monotonic()
            assert ask()["status"]
            assert time.monotonic() - asked < 2
    finally:
        kernel.interrupt()
        kernel.finish(outcome)
    assert "run_with_cache" in str(kernel.complete("model.run_")["matches"])


def test_completion_answers_while_a_cell_compiles(kernel):
    outcome = kernel.send(HARD)
    try:
        kernel.listen(outcome, lambda _: False, 1.5)
        asked = time.monotonic()
        kernel.complete("model.ru")
        kernel.inspect("Model::open", 11)
        assert time.monotonic() - asked < 3
    finally:
        kernel.interrupt()
        kernel.finish(outcome)


def test_is_complete_gives_an_indent(kernel):
    assert kernel.is_complete("1 + 1")["status"] == "complete"
    assert kernel.is_complete("fn f() {\n    if true {") == {"status": "incomplete", "indent": " " * 8}
    assert kernel.is_complete("let = 1;")["status"] == "invalid"


def test_history_is_kept_over_a_restart(tmp_path):
    with Kernel(env={"HEADLIGHT_DATA": str(tmp_path)}) as kernel:
        kernel.ok("let first = 1;", START)
        kernel.ok("first + 1")
        kernel.ok("5", store_history=False)
        assert [entry[2] for entry in kernel.history(hist_access_type="tail", n=10)] == ["let first = 1;", "first + 1"]
        kernel.restart()
        failed = kernel.fails("first", START)
        assert failed.reply["content"]["execution_count"] == 1
        assert kernel.ok('Model::open("built-in")?.dims().n_layers').result == "2"
        tail = kernel.history(hist_access_type="tail", n=3)
        assert [entry[2] for entry in tail][0] == "first + 1"
        assert tail[0][0] < tail[1][0], "a restart begins another session"
        before = kernel.history(hist_access_type="range", session=-1, start=1, stop=2)
        assert [entry[1:] for entry in before] == [[1, "let first = 1;"]]
        with_output = kernel.history(hist_access_type="search", pattern="first +*", output=True)
        assert [entry[2] for entry in with_output] == [["first + 1", "2"]]
        assert kernel.history(hist_access_type="search", pattern="*nothing like it*") == []


def test_lines_are_asked_for(kernel):
    outcome = kernel.send('let name = evcxr_input::get_string("Name? ");\nlet word = evcxr_input::get_password("Word? ");\nprintln!("{name}, {word}");', allow_stdin=True)
    for prompt, password, answer in [("Name? ", False, "Ada"), ("Word? ", True, "λ \"x\"")]:
        asked = kernel.client.get_stdin_msg(timeout=60)
        assert asked["msg_type"] == "input_request"
        assert asked["content"] == {"prompt": prompt, "password": password}
        kernel.client.input(answer)
    kernel.finish(outcome)
    assert outcome.out == 'Ada, λ "x"\n'


def test_the_standard_input_of_a_cell_is_at_its_end(kernel):
    for code, result in [
        ("let mut line = String::new();\nlet n = std::io::stdin().read_line(&mut line)?;\n(n, line)", '(0, "")'),
        ("std::io::read_to_string(std::io::stdin())?", '""'),
        ("std::io::stdin().lines().count()", "0"),
        ("std::thread::spawn(|| std::io::stdin().lines().count()).join().is_ok()", "true"),
        ('std::process::Command::new("cat").status()?.success()', "true"),
        ('std::process::Command::new("cat").spawn()?.wait()?.success()', "true"),
        ('std::process::Command::new("sh").args(["-c", "read x; echo got $?"]).output()?.stdout', '[103, 111, 116, 32, 49, 10]'),
    ]:
        assert kernel.ok(code).result == result, code
    kernel.ok("!cat")
    # What evcxr sends goes to nobody else: 0, 1, 2, and the folder that is listed.
    listed = kernel.ok('String::from_utf8(std::process::Command::new("ls").arg("/proc/self/fd").output()?.stdout)?.lines().count()')
    assert listed.result == "4"
    kernel.ok('std::fs::File::open("/dev/stdin")?;')
    test_lines_are_asked_for(kernel)


def test_a_line_is_asked_for_from_anywhere(kernel):
    codes = [
        'mod inner { pub fn ask() -> String { evcxr_input::get_string("Name? ") } }\ninner::ask()',
        'use evcxr_input::get_string;\nget_string("Name? ")',
        'std::thread::spawn(|| evcxr_input::get_string("Name? ")).join().unwrap_or_default()',
    ]
    for code in codes:
        outcome = kernel.send(code, allow_stdin=True)
        kernel.client.get_stdin_msg(timeout=60)
        kernel.client.input("Ada")
        assert kernel.finish(outcome).result == '"Ada"', code


def test_a_cell_that_waits_for_a_line_can_be_interrupted(kernel):
    outcome = kernel.send('println!("running");\nevcxr_input::get_string("Name? ")', allow_stdin=True)
    kernel.client.get_stdin_msg(timeout=60)
    asked = time.monotonic()
    kernel.interrupt()
    kernel.finish(outcome)
    assert time.monotonic() - asked < 8
    assert kernel.ok("1 + 1", START).result == "2"


def test_comms_are_answered(kernel):
    assert kernel.reply(kernel.client.comm_info(), 10)["content"] == {"status": "ok", "comms": {}}
    message = kernel.client.session.msg("comm_open", {"comm_id": "c1", "target_name": "nobody", "data": {}})
    kernel.client.shell_channel.send(message)
    closed = []
    end = time.monotonic() + 10
    while not closed and time.monotonic() < end:
        message = kernel.client.get_iopub_msg(timeout=10)
        closed = [message["content"]] if message["msg_type"] == "comm_close" else []
    assert closed and closed[0]["comm_id"] == "c1"


def test_forged_and_malformed_messages_are_survived(kernel, tmp_path):
    about = kernel.manager.get_connection_info()
    key = about["key"] if isinstance(about["key"], bytes) else about["key"].encode()
    forged = tmp_path / "forged"
    header = {"msg_id": "1", "username": "u", "session": "s", "msg_type": "execute_request", "version": "5.3", "date": "2024-01-01T00:00:00Z"}
    content = {"code": f'std::fs::write("{forged}", "x")?;', "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
    parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
    sign = lambda parts: hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
    context = zmq.Context()
    sockets = []
    try:
        for port in ("shell_port", "control_port", "stdin_port"):
            socket = context.socket(zmq.DEALER)
            socket.linger = 0
            sockets.append(socket)
            socket.connect(f"tcp://{about['ip']}:{about[port]}")
            garbage = [b"{", b"{}", b"{}", b"{}"]
            unknown = [json.dumps({**header, "msg_type": "no_such_request"}).encode(), b"{}", b"{}", b"{}"]
            lacking = [json.dumps({**header, "msg_type": "execute_request"}).encode(), b"{}", b"{}", b"{}"]
            for frames in (
                [b"<IDS|MSG>", b"0" * 64, *parts],
                [b"<IDS|MSG>", b"", *parts],
                [b"<IDS|MSG>", b"not even hexadecimal", *parts],
                [b"no delimiter"],
                [b""],
                [b"<IDS|MSG>"],
                [b"<IDS|MSG>", sign(parts), *parts[:2]],
                [b"<IDS|MSG>", sign(garbage), *garbage],
                [b"<IDS|MSG>", sign(unknown), *unknown],
                [b"<IDS|MSG>", sign(lacking), *lacking],
                [b"<IDS|MSG>", b"0" * 64, b"\xff\xfe", b"\xff", b"{}", b"{}"],
            ):
                socket.send_multipart(frames)
        time.sleep(1)
        assert kernel.ok("2 + 2", START).result == "4"
        assert not forged.exists(), "a message with a wrong signature was obeyed"
        # The control channel lives too.
        stops(kernel, kernel.running(ENDLESS), 3)
    finally:
        for socket in sockets:
            socket.close()
        context.term()


# The end


def session_folders(kernel):
    """The folders of this kernel's session."""
    library = kernel.ok('println!("{}", std::env::var("HEADLIGHT_SESSION_LIBRARY")?);', START).out.strip()
    template = re.match(r".*[/\\]templates[/\\][^/\\]+", library)[0]
    return lambda: glob.glob(f"{glob.escape(template)}/sessions/{kernel.pid}-*")


@pytest.mark.parametrize("work", [None, DEAF, HARD])
def test_shutdown_leaves_nothing(own, work):
    folders = session_folders(own)
    assert len(folders()) == 1
    if work == HARD:
        outcome = own.send(work)
        own.listen(outcome, lambda _: False, 3)
        assert any("rustc" in process.name() for process in own.processes())
    elif work:
        own.running(work)
    processes = own.processes()
    assert len(processes) >= 2
    own.client.shutdown()
    assert not gone(processes, 5)
    assert folders() == []


def test_a_kernel_that_is_killed_leaves_no_process(own):
    own.running(DEAF, timeout=START)
    processes = own.processes()
    assert len(processes) >= 2
    os.kill(own.pid, signal.SIGKILL)
    assert not gone(processes, 4)


def test_a_signal_ends_it_and_what_it_started(own):
    folders = session_folders(own)
    processes = own.processes()
    os.kill(own.pid, signal.SIGTERM)
    assert not gone(processes, 5)
    assert folders() == []
