"""What cells may say: what they depend on, define once more, and ask of the kernel."""

import hashlib
import itertools
import json
import os
import re
import time

import pytest

from cells import PREPARE, START, Kernel, crate, is_notice, model_works


def test_dependencies_that_are_there_are_served_without_building(kernel):
    began = time.monotonic()
    outcome = kernel.ok(
        ':dep headlight = { path = "/anywhere", default-features = false }\n:dep candle-core = "0.11"\n:dep plotly\n'
        ":dep tokenizers = \"0.23\"\nuse candle_core::{Device, Tensor};\nuse plotly::Plot;\nuse tokenizers::Tokenizer;\n"
        "let t = Tensor::arange(0f32, 6f32, &Device::Cpu)?.reshape((2, 3))?;\nt.dims()"
    )
    assert outcome.result == "[2, 3]"
    assert time.monotonic() - began < 30
    assert not [content for content in outcome.of("display_data") if "ompiling" in str(content["data"])]


def test_another_version_of_what_is_there_is_refused(kernel):
    outcome = kernel.fails(':dep candle-core = "0.10"\n1 + 1')
    assert "candle-core" in outcome.error["evalue"] and "0.10" in outcome.error["evalue"]
    assert "second copy" in outcome.traceback


def test_a_new_dependency_keeps_values_and_types(own, tmp_path):
    own.ok("#[derive(Debug, Clone)]\nstruct Point { x: i32 }\nlet point = Point { x: 3 };\nlet model = Model::open(\"built-in\")?;", START)
    line = crate(tmp_path / "tiny", "tiny", "pub fn twice(n: i32) -> i32 { 2 * n }")
    assert own.ok(f"{line}\ntiny::twice(point.x)", START).result == "6"
    own.ok("#[derive(Debug)]\nstruct Later(i32);\nlet later = Later(tiny::twice(4));")
    assert own.ok("later.0 + point.x").result == "11"
    assert own.ok("model.dims().n_layers").result == "2"
    outcome = own.fails(':dep nowhere = { path = "/nowhere/at/all" }')
    assert outcome.error["evalue"]
    assert own.ok("point.clone()").result == "Point { x: 3 }"


# From a wheel cargo has built nothing before: it names every crate, some too fast to be shown, and most are answered from the package.
FROM_WHEEL = "HEADLIGHT_KERNEL_PROGRAM" in os.environ


def compiled(outcome):
    """The crates that the kernel says it compiles."""
    notices = [content for content in outcome.of("display_data", "update_display_data") if is_notice(content)]
    return set(re.findall(r"Compiling (\S+)", str([content["data"] for content in notices])))


def session_libraries(kernel):
    """The libraries with headlight in them that the process of the cells has loaded."""
    maps = kernel.ok('println!("{}", std::fs::read_to_string("/proc/self/maps")?);').out
    return {line.split()[-1] for line in maps.splitlines() if "headlight_session" in line}


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_new_dependency_builds_nothing_that_is_there(own, again):
    """What notebooks start from was built by a program that cargo had started; this kernel was started by Jupyter."""
    own.ok(PREPARE, START)
    joined = own.ok(':dep itertools = "0.14"\nuse itertools::Itertools;\n(1..4).join(" ")', START)
    assert joined.result == '"1 2 3"'
    # evcxr adds tokio.
    awaited = own.ok("async fn three() -> i32 { 3 }\nthree().await", START)
    assert awaited.result == "3"
    built = compiled(joined) | compiled(awaited)
    assert FROM_WHEEL or not built & {"ring", "candle-core", "headlight", "headlight-session"}, built
    assert FROM_WHEEL or not again or not built, "the second kernel builds what the first has built"
    assert len(session_libraries(own)) == 1
    model_works(own)
    # The types of new variables are known as before.
    assert own.ok('let later = Model::open("built-in")?;\nlater.dims().n_layers').result == "2"


def test_what_cargo_builds_again_is_what_was_there(tmp_path):
    library = "pub fn hashed(text: &str) -> Vec<u8> { ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().to_vec() }"
    line = crate(tmp_path / "above_ring", "above_ring", library)
    with open(tmp_path / "above_ring/Cargo.toml", "a") as manifest:
        manifest.write('[dependencies]\nring = "0.17"\n')
    # Ring asks for this variable: cargo builds it again, and all that is above it; and once more without.
    for flags in ({"CFLAGS": f"-DNOT_AS_BEFORE={time.time_ns()}"}, {}):
        with Kernel(env=flags) as kernel:
            kernel.ok(PREPARE, START)
            outcome = kernel.ok(f'{line}\nabove_ring::hashed("abc")', START)
            assert bytes(json.loads(outcome.result)) == hashlib.sha256(b"abc").digest()
            assert FROM_WHEEL or "ring" in compiled(outcome), "cargo was content with what was there: what is tested?"
            assert len(session_libraries(kernel)) == 1
            model_works(kernel)


def test_types_and_values_live_on(kernel):
    kernel.ok("#[derive(Debug, Clone, Default)]\nstruct Tally { count: usize }\nimpl Tally {\n    fn add(&mut self) { self.count += 1; }\n}")
    kernel.ok("let mut tally = Tally::default();")
    kernel.ok("tally.add();\ntally.add();")
    assert kernel.ok("tally.clone()").result == "Tally { count: 2 }"
    kernel.ok("fn doubled(tally: &Tally) -> usize { 2 * tally.count }")
    assert kernel.ok("doubled(&tally)").result == "4"
    assert kernel.ok("doubled(&tally);").result is None
    assert kernel.ok("let shadowed = 1;\nlet shadowed = \"now text\";\nshadowed").result == '"now text"'


NUMBERS = itertools.count()


# Cells run one after the other, the last one gives a result: what is run again counts.
@pytest.mark.parametrize(
    "cells, result",
    [
        (["struct Dog;", 'impl Dog { fn say(&self) -> &str { "wau" } }', 'impl Dog { fn say(&self) -> &str { "wuff" } }', "Dog.say()"], '"wuff"'),
        (["struct Dog;", "impl Dog { fn a(&self) -> u8 { 1 } }", "impl Dog { fn b(&self) -> u8 { 2 } }", "(Dog.a(), Dog.b())"], "(1, 2)"),
        (["struct Dog;\nimpl Dog { fn a(&self) -> u8 { 1 } }", "struct Dog;\nimpl Dog { fn a(&self) -> u8 { 2 } }", "Dog.a()"], "2"),
        (["struct Dog;\nimpl Dog { fn a(&self) -> u8 { 1 } }", "impl Dog { fn a(&self) -> u8 { 2 } }", "Dog.a()"], "2"),
        (
            ["trait Say { fn say(&self) -> u8; }\nstruct Dog;", "impl Say for Dog { fn say(&self) -> u8 { 1 } }", "impl Say for Dog { fn say(&self) -> u8 { 2 } }", "Dog.say()"],
            "2",
        ),
        (
            ["struct Dog(u8);", "impl From<u8> for Dog { fn from(n: u8) -> Dog { Dog(n) } }", "impl From<bool> for Dog { fn from(_: bool) -> Dog { Dog(9) } }", "(Dog::from(3).0, Dog::from(true).0)"],
            "(3, 9)",
        ),
        (
            ["struct W<T>(T);", "impl<T: Copy> W<T> { fn a(&self) -> u8 { 1 } }", "impl<T: Clone> W<T> { fn a(&self) -> u8 { 2 } }", "W(1).a()"],
            "2",
        ),
        # What only rustc sees to be in the way: a general block in the place of a special one.
        (["struct W<T>(T);", "impl W<u8> { fn a(&self) -> u8 { 1 } }", "impl<T> W<T> { fn a(&self) -> u8 { 2 } }", "W(1u8).a()"], "2"),
        (
            ["struct W<T>(T);", "impl Default for W<u8> { fn default() -> Self { W(1) } }", "impl<T: Default> Default for W<T> { fn default() -> Self { W(T::default()) } }", "W::<u8>::default().0"],
            "0",
        ),
        # One that does not compile changes nothing.
        (["struct Dog;\nimpl Dog { fn a(&self) -> u8 { 1 } }", "!impl Dog { fn a(&self) -> u8 { nothing } }", "Dog.a()"], "1"),
        (["macro_rules! one { () => { 1 } }", "macro_rules! one { () => { 2 } }", "one!()"], "2"),
        (["macro_rules! make { ($name:ident) => { fn $name() -> u8 { 1 } } }", "make!(made);\nmade()", "macro_rules! make { ($name:ident) => { fn $name() -> u8 { 2 } } }", "make!(made);\nmade()"], "2"),
        (["macro_rules! inner { () => { 1 } }\nfn outer() -> u8 { inner!() }", "macro_rules! inner { () => { 2 } }", "outer()"], "2"),
        (["fn f() -> u8 { 1 }", "fn f() -> u8 { 2 }", "f()"], "2"),
        # evcxr writes items in any order.
        (["\n".join(f"macro_rules! of{n} {{ () => {{ {n} }} }}\nfn is{n}() -> u8 {{ of{n}!() }}" for n in range(8)), "is0() + is7()"], "7"),
        (["const N: u8 = 1;", "const N: u8 = 2;", "N"], "2"),
        (["mod m { pub fn f() -> u8 { 1 } }", "mod m { pub fn f() -> u8 { 2 } }", "m::f()"], "2"),
    ],
)
def test_what_is_run_again_takes_the_place_of_what_was(kernel, cells, result):
    # Names of its own for each of these.
    own = f"{next(NUMBERS)}"
    *before, last = [re.sub(r"\b(Dog|Say|W)\b", rf"\g<1>{own}", cell) for cell in cells]
    for code in before:
        kernel.fails(code[1:]) if code.startswith("!") else kernel.ok(code)
    assert kernel.ok(last).result == result


def test_what_no_longer_compiles_beside_a_new_definition_is_left_out_and_told(kernel):
    kernel.ok("#[derive(Debug)]\nstruct Cat(u8);")
    kernel.ok("impl From<u8> for Cat { fn from(n: u8) -> Cat { Cat(n) } }")
    kernel.ok("fn age(cat: &Cat) -> u8 { cat.0 }\nfn twice(cat: &Cat) -> u8 { 2 * age(cat) }\nfn other() -> u8 { 9 }")
    outcome = kernel.ok("#[derive(Debug)]\nstruct Cat { age: u8 }")
    for item in ("impl From<u8> for Cat", "fn age(cat: &Cat) -> u8", "fn twice(cat: &Cat) -> u8"):
        assert f"`{item}`" in outcome.err, outcome.err
    assert "other" not in outcome.err and "Run again" in outcome.err
    kernel.ok("impl From<u8> for Cat { fn from(age: u8) -> Cat { Cat { age } } }")
    kernel.ok("fn age(cat: &Cat) -> u8 { cat.age }")
    assert kernel.ok("(age(&Cat::from(4)), other())").result == "(4, 9)"
    # An error of the cell itself takes nothing away.
    outcome = kernel.fails("struct Cat { age: u8 }\nlet n: u8 = \"text\";")
    assert "line 2" in outcome.traceback and outcome.err == ""
    assert kernel.ok("age(&Cat::from(4))").result == "4"


def test_the_lines_of_a_block_are_the_users(kernel):
    kernel.ok("struct Dog;\nimpl Dog { fn old(&self) {} }")
    outcome = kernel.fails("let before = 1;\n\nimpl Dog {\n    fn bad(&self) -> u8 { \"text\" }\n}")
    assert "line 4" in outcome.traceback and "HeadlightImpl" not in outcome.traceback, outcome.traceback
    defined = kernel.ok("impl Dog {\n    fn fails(&self) { panic!(\"here\") }\n}")
    outcome = kernel.fails("Dog.fails()")
    assert f"cell {defined.reply['content']['execution_count']}, line 2" in outcome.traceback, outcome.traceback
    assert not [name for name in kernel.complete("Headl")["matches"] if name.startswith("HeadlightImpl")]


def test_what_a_macro_makes_is_told_to_be_of_its_cell(kernel):
    kernel.ok("macro_rules! structure { ($name:ident) => { #[derive(Debug)] struct $name; } }")
    assert kernel.ok("structure!(Made);\nMade").result == "Made"
    outcome = kernel.fails("Made")
    assert "macro" in outcome.traceback and "cell" in outcome.traceback, outcome.traceback


def test_a_value_that_cannot_be_shown_is_told(kernel):
    outcome = kernel.fails("struct Hidden;\nHidden")
    assert "Hidden" in outcome.traceback and "#[derive(Debug)]" in outcome.traceback
    assert "evcxr" not in outcome.traceback, outcome.traceback


def test_brackets_in_texts_are_not_nesting(kernel):
    assert kernel.ok(f'let p = "{"(" * 300}"; p.len()').result == "300"
    assert kernel.ok(f"let (a, b) = (1, 2);\nlet v = [{'a < b, ' * 300}];\nv.len()").result == "300"
    outcome = kernel.fails(f"{'(' * 300}1{')' * 300}")
    assert "nested" in outcome.error["evalue"] and "let" in outcome.traceback
    assert kernel.ok("1 + 1").result == "2"


def test_commands(kernel):
    kernel.ok("let listed = 1u8;")
    assert ":dep" in kernel.ok(":help").result
    assert "listed: u8" in kernel.ok(":vars").result
    outcome = kernel.ok("!echo hi")
    assert "hi" in (outcome.result or "") + outcome.out
    kernel.fails(":no_such_command")
    assert kernel.ok("listed").result == "1"


def test_cells_without_code_are_fine(kernel):
    for code in ("", "   \n", "// only a remark", "/* and\nanother */"):
        assert kernel.ok(code).result is None
