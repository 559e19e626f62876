"""Jupyter's own test of kernels, with a sample for all that it asks for."""

import unittest

import jupyter_kernel_test
from jupyter_client.manager import start_new_kernel
from jupyter_kernel_test.msgspec_v5 import validate_message

from cells import START


class HeadlightKernelTests(jupyter_kernel_test.KernelTests):
    kernel_name = "headlight"
    language_name = "rust"
    file_extension = ".rs"

    code_hello_world = 'println!("hello, world");'
    code_stderr = 'eprintln!("oops");'

    completion_samples = [
        {"text": "Model::op", "matches": {"open", "open_on"}},
        {"text": "model.run_with_c", "matches": {"run_with_cache"}},
        {"text": "induction_sc", "matches": {"induction_scores"}},
        {"text": "a_name_that_nobody_has", "matches": set()},
    ]
    code_inspect_sample = "Model::open"

    complete_code_samples = [
        "1 + 1",
        "let x = 1;",
        "fn f() -> i32 {\n    1\n}",
        'for i in 0..3 { println!("{i}"); }',
        'model.run_with_cache("the cat")?',
        ':dep candle-core = "0.11"\nuse candle_core::Tensor;',
        "// a remark (",
        'println!("(");',
    ]
    incomplete_code_samples = ["fn f() {", "let x = vec![1,", 'let s = "abc', "model.", "/* a remark", "1 +"]
    invalid_code_samples = ["}", "let = 3;", "f(]", "fn 3() {}"]

    code_generate_error = 'panic!("on purpose");'
    code_execute_result = [
        {"code": "1 + 1", "result": "2"},
        {"code": '"text"', "result": '"text"'},
        {"code": 'model.run_with_cache("the cat sat")?.pattern(1)?', "mime": "application/vnd.plotly.v1+json"},
        {"code": 'model.run_with_cache("the cat sat")?.pattern(1)?', "mime": "image/png"},
        {"code": "vec![1, 2, 3].len()", "result": "3"},
    ]
    code_display_data = [
        {"code": 'show(&model.run_with_cache("the cat")?.pattern(0)?);', "mime": "image/png"},
        {"code": 'show(&model.run_with_cache("the cat")?.pattern(0)?);', "mime": "application/vnd.plotly.v1+json"},
    ]
    code_history_pattern = "1 ?*"
    supported_history_operations = ("tail", "range", "search")
    code_clear_output = "clear_output();"

    # Nothing in Rust opens a pager: `code_page_something` stays empty.

    @classmethod
    def setUpClass(cls):
        cls.km, cls.kc = start_new_kernel(kernel_name=cls.kernel_name, startup_timeout=START)
        # The tests give a cell 15 seconds; the first one waits for the kernel.
        cls.kc.execute_interactive('let model = Model::open("built-in")?;', timeout=START, output_hook=lambda _: None)

    # The package has no samples for these; they are checked as its own tests are.

    def test_update_display_data(self):
        self.flush_channels()
        code = 'let run = model.run_with_cache("the cat")?;\nlet shown = show(&run.pattern(0)?);\nshown.update(&run.pattern(1)?);'
        reply, messages = self.execute_helper(code)
        self.assertEqual(reply["content"]["status"], "ok")
        kinds = [message["msg_type"] for message in messages]
        self.assertEqual(kinds, ["display_data", "update_display_data"])
        first, second = (message["content"]["transient"]["display_id"] for message in messages)
        self.assertEqual(first, second)

    def test_stdin(self):
        self.flush_channels()
        id = self.kc.execute('evcxr_input::get_string("Name? ")', allow_stdin=True)
        asked = self.kc.get_stdin_msg(timeout=15)
        # The package's schema wants a number for `password`, where the protocol has true or false.
        self.assertEqual((asked["msg_type"], asked["parent_header"]["msg_id"]), ("input_request", id))
        self.assertEqual(asked["content"], {"prompt": "Name? ", "password": False})
        self.kc.input("Ada")
        reply = self.get_non_kernel_info_reply(timeout=15)
        validate_message(reply, "execute_reply", id)
        self.assertEqual(reply["content"]["status"], "ok")
        results = []
        while True:
            message = self.kc.get_iopub_msg(timeout=5)
            if message["msg_type"] == "execute_result":
                results.append(message["content"]["data"]["text/plain"])
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        self.assertEqual(results, ['"Ada"'])

    def test_comm_info(self):
        self.flush_channels()
        id = self.kc.comm_info()
        reply = self.get_non_kernel_info_reply(timeout=15)
        validate_message(reply, "comm_info_reply", id)


if __name__ == "__main__":
    unittest.main()
