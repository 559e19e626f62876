"""Drives a kernel as a notebook does, and sees all that it says. Nothing here waits without a limit."""

import os
import queue
import re
import subprocess
import time
from pathlib import Path

import psutil
from jupyter_client.manager import KernelManager

NAME = "headlight"
PROGRAM = os.environ.get("HEADLIGHT_KERNEL_PROGRAM") or str(
    Path(__file__).resolve().parents[3] / "target/release/headlight-kernel"
)
# A first cell waits for the kernel, which on a busy machine takes a while; a cell alone does not take that long.
START, CELL = 180, 90
# What kernels that tests share begin with.
PREPARE = """let model = Model::open("built-in")?;
let slow = model.edit(("resid_pre", 0), "slow", |x| {
    std::thread::sleep(std::time::Duration::from_millis(20));
    Ok(x.clone())
})?;"""


def plain(text):
    """Text without colours."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


class Outcome:
    """All that one cell led to."""

    def __init__(self):
        self.messages = []  # (seconds since it was sent, message), of iopub
        self.reply = None
        self.seconds = None

    def of(self, *kinds):
        return [message["content"] for _, message in self.messages if message["msg_type"] in kinds]

    def stream(self, name):
        return "".join(content["text"] for content in self.of("stream") if content["name"] == name)

    @property
    def out(self):
        return self.stream("stdout")

    @property
    def err(self):
        return self.stream("stderr")

    @property
    def error(self):
        errors = self.of("error")
        return errors[0] if errors else None

    @property
    def traceback(self):
        return plain("\n".join(self.error["traceback"])) if self.error else ""

    @property
    def result(self):
        """The text of the value that the cell ends with."""
        results = self.of("execute_result")
        return results[0]["data"].get("text/plain") if results else None

    @property
    def displays(self):
        """What was shown in mid-cell, without what the kernel says while it starts or builds."""
        mine = lambda content: not is_notice(content)
        return [content for content in self.of("display_data") if mine(content)]

    def when(self, found):
        """The moment of the first message that a function finds."""
        return next((at for at, message in self.messages if found(message)), None)

    @property
    def status(self):
        return self.reply and self.reply["content"]["status"]

    def __repr__(self):
        kinds = [message["msg_type"] for _, message in self.messages]
        return f"status {self.status}, messages {kinds}, out {self.out[-500:]!r}, err {self.err[-500:]!r}, {self.traceback}"


def is_notice(content):
    return str(content.get("transient", {}).get("display_id", "")).startswith("headlight-notice-")


class Kernel:
    """One kernel and its client."""

    def __init__(self, name=NAME, env=None, wait=True, log=None):
        self.manager = KernelManager(kernel_name=name)
        self.began = time.monotonic()
        log = open(log, "ab") if log else subprocess.DEVNULL
        self.manager.start_kernel(env={**os.environ, **(env or {})}, stdout=log, stderr=log)
        self.pid = self.manager.provisioner.pid
        self.client = self.manager.client()
        self.client.start_channels()
        self.answered = None
        self.replies = {}
        if wait:
            self.wait()

    def wait(self, timeout=START):
        self.client.wait_for_ready(timeout=timeout)
        self.answered = time.monotonic() - self.began

    # Cells

    def send(self, code, **options):
        """Sends a cell and does not wait; what `finish` takes."""
        outcome = Outcome()
        outcome.sent = time.monotonic()
        outcome.id = self.client.execute(code, **{"allow_stdin": False, **options})
        return outcome

    def listen(self, outcome, until, timeout):
        """Gathers what a cell says until a function of the last message is true; False if it never is."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                message = self.client.get_iopub_msg(timeout=max(0.01, min(0.5, end - time.monotonic())))
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != outcome.id:
                self.others.append(message)
                continue
            outcome.messages.append((time.monotonic() - outcome.sent, message))
            if until(message):
                return True
        return False

    others: list = []

    def finish(self, outcome, timeout=CELL):
        idle = lambda message: message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
        if not any(idle(message) for _, message in outcome.messages):
            assert self.listen(outcome, idle, timeout), f"no end after {timeout} s: {outcome}"
        outcome.seconds = time.monotonic() - outcome.sent
        outcome.reply = self.reply(outcome.id, 10)
        return outcome

    def run(self, code, timeout=CELL, **options):
        return self.finish(self.send(code, **options), timeout)

    def ok(self, code, timeout=CELL, **options):
        outcome = self.run(code, timeout, **options)
        assert outcome.status == "ok", f"{code}\n{outcome}"
        return outcome

    def fails(self, code, timeout=CELL, **options):
        outcome = self.run(code, timeout, **options)
        assert outcome.status == "error", f"{code}\n{outcome}"
        return outcome

    def reply(self, id, timeout=CELL, channel="shell"):
        """The reply to a request, whichever came first."""
        end = time.monotonic() + timeout
        get = self.client.get_shell_msg if channel == "shell" else self.client.get_control_msg
        while id not in self.replies:
            try:
                message = get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no reply to {id} within {timeout} s") from None
            self.replies[message["parent_header"].get("msg_id")] = message
        return self.replies.pop(id)

    def interrupt(self):
        self.manager.interrupt_kernel()

    def running(self, code, mark="running", timeout=CELL):
        """Starts a cell, and returns once it prints a mark."""
        outcome = self.send(code)
        seen = lambda message: message["msg_type"] == "stream" and mark in message["content"]["text"]
        assert self.listen(outcome, seen, timeout), f"the cell did not come so far: {outcome}"
        return outcome

    # Requests beside cells

    def complete(self, code, cursor=None, timeout=30):
        return self.reply(self.client.complete(code, cursor), timeout)["content"]

    def inspect(self, code, cursor=None, timeout=30):
        return self.reply(self.client.inspect(code, cursor), timeout)["content"]

    def is_complete(self, code):
        return self.reply(self.client.is_complete(code), 10)["content"]

    def history(self, **arguments):
        arguments = {"raw": True, "output": False, **arguments}
        return self.reply(self.client.history(**arguments), 10)["content"]["history"]

    # The processes

    def processes(self):
        try:
            kernel = psutil.Process(self.pid)
            return [kernel, *kernel.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def restart(self):
        self.manager.restart_kernel(now=False)
        self.pid = self.manager.provisioner.pid
        self.replies.clear()
        self.client.wait_for_ready(timeout=START)

    def stop(self, now=False):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=now)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(now=True)


def alive(processes):
    """Those that still run; what only waits to be collected does not count."""
    left = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
        except psutil.NoSuchProcess:
            pass
    return left


def gone(processes, timeout):
    """Waits until none of them runs; those that still do after that time."""
    end = time.monotonic() + timeout
    while alive(processes) and time.monotonic() < end:
        time.sleep(0.05)
    return alive(processes)


def model_works(kernel):
    assert kernel.ok("model.dims().n_layers", START).result == "2"


def crate(folder, name, library, build=None):
    """A small crate, so that `:dep` needs no network."""
    (folder / "src").mkdir(parents=True)
    (folder / "Cargo.toml").write_text(f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n')
    (folder / "src/lib.rs").write_text(library)
    if build:
        (folder / "build.rs").write_text(build)
    return f':dep {name} = {{ path = "{folder}" }}'
