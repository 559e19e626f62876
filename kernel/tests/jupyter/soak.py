"""Three hundred cells of all sorts, in an order that a seed decides: nothing hangs, nothing is left, memory is flat.

    python soak.py [--cells 300] [--seed 1]

Each cell has a limit on its time, says whether it must succeed, and every few cells it is checked that values are as
they should be. Memory is that of the kernel and of the process that runs its cells, sampled after each cell; what a
crash or a restart made new is compared with what was new before.
"""

import argparse
import collections
import random
import statistics
import sys
import tempfile
import time

import psutil

from cells import START, Kernel, alive, gone

PREPARE = """let model = Model::open("built-in")?;
let slow = model.edit(("resid_pre", 0), "slow", |x| {
    std::thread::sleep(std::time::Duration::from_millis(20));
    Ok(x.clone())
})?;
let mut sum = 0u64;"""
ENDLESS = 'println!("running");\nloop { slow.generate("the", &Sampling { max_new_tokens: 250, ..Sampling::default() })?; }'
DEAF = 'println!("running");\nloop { std::hint::black_box(()); }'
HARD = (
    "#[allow(long_running_const_eval)]\n"
    "const N: u64 = { let mut i = 0u64; while i < 1_000_000_000_000 { i += 1; } i };\nprintln!(\"{N}\");"
)
# How often each sort comes.
SORTS = {
    "value": 30,
    "text": 12,
    "figure": 14,
    "figures": 5,
    "work": 8,
    "define": 6,
    "panic": 8,
    "question mark": 6,
    "compile error": 8,
    "interrupt": 7,
    "interrupt while compiling": 2,
    "interrupt that kills": 1,
    "crash": 1,
    "restart": 1,
    "run all": 3,
    "ask": 3,
}


class Soak:
    def __init__(self, kernel, random):
        self.kernel, self.random = kernel, random
        self.sum = 0
        self.functions = 0
        # One list for each process that ran cells, another for each kernel.
        self.of_kernel, self.of_child = [[]], [[]]
        self.seen = {}
        self.stops = []
        self.seconds = collections.defaultdict(list)

    def prepare(self):
        self.sum = 0
        self.kernel.ok(PREPARE, START)

    def cell(self, sort):
        k, n = self.kernel, self.random.randrange(1000)
        if sort == "value":
            k.ok(f"sum += {n};\nlet value_{n} = vec![{n}u64; {n + 1}];")
            self.sum += n
        elif sort == "text":
            outcome = k.ok(f'for i in 0..{n * 10} {{ println!("line {{i}}"); }}\neprint!("end");')
            assert outcome.out.count("\n") == n * 10 and outcome.err == "end", outcome
        elif sort == "figure":
            outcome = k.ok('model.run_with_cache("the cat sat the cat sat")?.pattern(1)?')
            assert "image/png" in outcome.of("execute_result")[0]["data"]
        elif sort == "figures":
            outcome = k.ok('for text in ["the cat", "the dog"] { show(&model.run_with_cache(text)?.pattern(0)?); }')
            assert len(outcome.displays) == 2, outcome
        elif sort == "work":
            k.ok('ablation_effects(&model, "the cat sat the cat sat", Ablation::Zero, &Metric::Loss)?;')
        elif sort == "define":
            self.functions += 1
            name = f"f{self.functions}"
            k.ok(f"fn {name}(x: u64) -> u64 {{ x + {n} }}")
            assert k.ok(f"{name}(1)").result == str(n + 1)
        elif sort == "panic":
            outcome = k.fails(f"sum += 1;\nlet v = vec![1];\nprintln!(\"{{}}\", v[{n + 1}]);")
            assert outcome.error["ename"] == "panic"
            # What a cell changed before it panicked may or may not be kept.
            self.sum = int(k.ok("sum").result)
        elif sort == "question mark":
            outcome = k.fails(f'"x{n}".parse::<u64>()?;')
            assert outcome.error["ename"] == "ParseIntError"
        elif sort == "compile error":
            assert "E0425" in k.fails(f"unknown_{n}").error["ename"]
        elif sort == "interrupt":
            self.stop(k.running(ENDLESS), 4)
        elif sort == "interrupt while compiling":
            outcome = k.send(HARD)
            k.listen(outcome, lambda _: False, 1.5)
            self.stop(outcome, 5)
        elif sort == "interrupt that kills":
            self.stop(k.running(DEAF), 15)
            self.prepare()
        elif sort == "crash":
            assert "lost" in k.fails("std::process::abort();").traceback
            self.prepare()
        elif sort == "restart":
            before = k.processes()
            k.restart()
            assert not gone(before, 5), "a restart left processes"
            self.functions = 0
            self.of_kernel.append([])
            self.prepare()
        elif sort == "run all":
            ids = [k.client.execute(code) for code in ("1", 'panic!("in the midst");', "2", "3")]
            states = [k.reply(id)["content"]["status"] for id in ids]
            assert states == ["ok", "error", "aborted", "aborted"], states
            time.sleep(0.2)
        elif sort == "ask":
            k.complete("model.ru")
            k.inspect("Model::open", 11)
            k.is_complete("fn f() {")
            k.history(hist_access_type="tail", n=5)

    def stop(self, outcome, limit):
        asked = time.monotonic()
        self.kernel.interrupt()
        self.kernel.finish(outcome)
        took = time.monotonic() - asked
        assert outcome.status == "error" and took < limit, f"{took:.1f} s: {outcome}"
        self.stops.append(took)

    def sample(self):
        processes = self.kernel.processes()
        self.of_kernel[-1].append(processes[0].memory_info().rss / 1e6)
        children = [process for process in processes[1:] if process.ppid() == processes[0].pid and "headlight" in process.name()]
        assert len(children) == 1, f"{children} run cells"
        if children[0].pid != self.seen.get("child"):
            self.seen["child"] = children[0].pid
            self.of_child.append([])
        self.of_child[-1].append(children[0].memory_info().rss / 1e6)
        for process in processes:
            self.seen[process.pid] = process
        self.seen["threads"] = max(self.seen.get("threads", 0), children[0].num_threads())
        extra = [process for process in processes[1:] if process not in children]
        assert not gone(extra, 5), f"{extra} still run after a cell"


def growth(runs):
    """The most that a process grew per cell, in MB, once its first cells are past."""
    rates = []
    for samples in runs:
        samples = samples[10:]
        if len(samples) >= 30:
            third = len(samples) // 3
            begin, end = statistics.median(samples[:third]), statistics.median(samples[-third:])
            rates.append((end - begin) / (len(samples) - third))
    return max(rates, default=0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    order = random.Random(arguments.seed)
    # Each sort comes at least once, however small its share.
    sorts = list(SORTS) + order.choices(list(SORTS), SORTS.values(), k=max(0, arguments.cells - len(SORTS)))
    order.shuffle(sorts)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as data, Kernel(env={"HEADLIGHT_DATA": data}) as kernel:
        soak = Soak(kernel, order)
        soak.prepare()
        for at, sort in enumerate(sorts):
            cell_began = time.monotonic()
            try:
                soak.cell(sort)
                if at % 5 == 0:
                    assert kernel.ok("sum").result == str(soak.sum)
                    assert kernel.ok("model.dims().n_layers").result == "2"
                soak.sample()
            except BaseException:
                print(f"cell {at + 1}, {sort}, of seed {arguments.seed}: after {sorts[max(0, at - 5):at]}", file=sys.stderr)
                raise
            soak.seconds[sort].append(time.monotonic() - cell_began)
        processes = kernel.processes()
        kernel.stop()
        left = gone(processes, 5)
    left += alive([process for process in soak.seen.values() if isinstance(process, psutil.Process)])
    print(f"{len(sorts)} cells in {time.monotonic() - began:.0f} s, seed {arguments.seed}")
    for sort, seconds in sorted(soak.seconds.items()):
        print(f"  {sort:26} {len(seconds):4}   median {statistics.median(seconds):6.2f} s   longest {max(seconds):6.2f} s")
    print(f"  interrupts: median {statistics.median(soak.stops):.2f} s, longest {max(soak.stops):.2f} s")
    rates = {}
    for name, runs in (("kernel", soak.of_kernel), ("cells", soak.of_child)):
        highest = max(max(samples) for samples in runs if samples)
        rates[name] = growth(runs)
        longest = max(len(samples) for samples in runs)
        print(f"  memory of the process of the {name}: at most {highest:.0f} MB, grows by {rates[name]:.2f} MB a cell, longest life {longest} cells")
    print(f"  threads of the process of the cells: at most {soak.seen['threads']}")
    assert not left, f"processes are left: {left}"
    # Each cell's code stays loaded, and rust-analyzer keeps what it knows: a little for each is no leak.
    assert rates["kernel"] < 1.5, "the kernel's memory grows"
    assert rates["cells"] < 1.0, "the memory of the process that runs cells grows"


if __name__ == "__main__":
    main()
