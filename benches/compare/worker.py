"""Processes that do work on command, and programs that are run as a whole, with what the system says they used."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAUSE = 0.03


class Failed(Exception):
    """A process did not do what it was asked for."""


@dataclass
class Used:
    seconds: float
    cpu: float
    peak: int = 0


def environment(threads: int) -> dict[str, str]:
    """The same number of threads for all, no accelerator and no network."""
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | dict.fromkeys(names, str(threads)) | offline


class Worker:
    """A process that was started once and answers line by line."""

    def __init__(self, said: str, command: list[str], folder: Path, threads: int):
        self.said = said
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment(threads), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        self.sizes = self.read()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer that does not come is the error
        return self.read()

    def measure(self, request: dict[str, Any]) -> Used:
        # What is left of earlier work is nobody's time: threads that still spin, and what is to be collected.
        time.sleep(PAUSE)
        self.ask({"work": "tidy"})
        before = self.cpu()
        seconds = self.ask(request)["seconds"]
        return Used(seconds, self.cpu() - before)

    def cpu(self) -> float:
        """The CPU seconds of all its threads, by Linux's clock of another process (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace")[-3000:]
            raise Failed(f"{self.said} ended with {self.process.returncode}:\n{said}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.said}: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def run_whole(said: str, command: list[str], folder: Path, threads: int) -> Used:
    """A program from its start to its end; the command's first word is a path."""
    with tempfile.NamedTemporaryFile() as output:
        launch = [sys.executable, "-I", "-S", str(HERE / "whole.py"), output.name, *command]
        launched = subprocess.run(launch, cwd=folder, env=environment(threads), stdout=subprocess.PIPE, check=True)
        used = json.loads(launched.stdout)
        if used["code"] != 0:
            printed = output.read().decode(errors="replace")[-3000:]
            raise Failed(f"{said} ended with {used['code']}:\n{printed}")
    return Used(used["seconds"], used["cpu"], used["peak"])
