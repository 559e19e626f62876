#!/usr/bin/env python3
"""What a first build costs, and what each dependency costs in it, in seconds of the processor.

    python3 benches/build_time.py                          # the crate
    python3 benches/build_time.py -p headlight-kernel      # the kernel
    python3 benches/build_time.py --no-default-features    # any options of cargo that choose what is built

Builds with --release in a folder that it makes and removes again. Cargo's --timings give how long each crate took by the
clock, which on a busy machine says more of the machine; here each call of rustc, its linker included, is weighed by the
processor's time (this program is cargo's RUSTC_WRAPPER). Written for docs/build-time.md, as Markdown.
"""

import argparse
import collections
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
LOG = "HEADLIGHT_BUILD_TIME_LOG"


def weigh(command):
    """As RUSTC_WRAPPER: runs rustc and notes what it took."""
    code = subprocess.run(command).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    package = f"{os.environ.get('CARGO_PKG_NAME', '')} {os.environ.get('CARGO_PKG_VERSION', '')}"
    line = json.dumps([package, used.ru_utime + used.ru_stime]) + "\n"
    # One write, so that lines of several compilers do not mix.
    log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode())
    return code if code >= 0 else 128 - code


def build(options):
    """Seconds by the clock and of the processor, and those of the processor by package."""
    with tempfile.TemporaryDirectory(prefix="headlight-build-") as folder:
        log = Path(folder) / "log"
        env = dict(os.environ, CARGO_TARGET_DIR=folder, RUSTC_WRAPPER=str(Path(__file__).resolve()), **{LOG: str(log)})
        # What is fetched is not built.
        subprocess.run(["cargo", "fetch", "--locked", "--quiet"], cwd=CHECKOUT, check=True)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(["cargo", "build", "--release", "--locked", *options], cwd=CHECKOUT, env=env, check=True)
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        by_package = collections.Counter()
        for line in log.read_text().splitlines():
            package, seconds = json.loads(line)
            by_package[package] += seconds
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, total, by_package


def graph(options):
    """The packages that each package asks for, and the one that is built."""
    command = ["cargo", "tree", "--locked", "--edges", "normal,build", "--prefix", "depth", "--format", " {p}", *options]
    tree = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    edges, path = collections.defaultdict(set), []
    for line in tree.splitlines():
        # A package that comes again has (*) in place of what it asks for.
        found = re.match(r"(\d+) (\S+) v(\S+)", line)
        depth, package = int(found[1]), f"{found[2]} {found[3]}"
        path[depth:] = [package]
        if depth:
            edges[path[depth - 1]].add(package)
    return edges, path[0]


def reached(edges, root, without=None):
    """What is built for `root`; `without` is what it does not ask for itself."""
    found, left = set(), [root]
    while left:
        package = left.pop()
        if package not in found:
            found.add(package)
            left.extend(edges[package] - ({without} if package == root else set()))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Other options are cargo's.")
    parser.add_argument("--rows", type=int, default=20, help="rows of the first table")
    arguments, options = parser.parse_known_args()
    edges, root = graph(options)
    wall, total, by_package = build(options)
    everything = reached(edges, root)

    print(f"`cargo build --release {' '.join(options)}`".replace(" `", "`"), end=": ")
    print(f"{wall:.0f} s on {os.cpu_count()} cores (load now {os.getloadavg()[0]:.1f}), {total:.0f} s of the processor,")
    print(f"{len(everything)} packages. What build scripts did, C compilers included: {total - by_package.total():.0f} s.\n")
    print("| package | seconds |\n|---|---|")
    for package, seconds in by_package.most_common(arguments.rows):
        print(f"| {package} | {seconds:.1f} |")

    print("\n| asked for | seconds | spared without it | packages |\n|---|---|---|---|")
    rows = []
    for package in edges[root]:
        alone = everything - reached(edges, root, without=package)
        rows.append((sum(by_package[one] for one in alone), package, len(alone)))
    for seconds, package, count in sorted(rows, reverse=True):
        print(f"| {package} | {by_package[package]:.1f} | {seconds:.1f} | {count} |")


if __name__ == "__main__":
    sys.exit(weigh(sys.argv[1:]) if LOG in os.environ else main())
