"""``python -m tests.simulation.run``: live through seeds, print the rate, and what is wrong with which seed.

    python -m tests.simulation.run --seeds 0:100 [--mutant NAME] [--processes 2] [--stop]
    python -m tests.simulation.run --seeds 17:18 --verbose          # every event of one life
    python -m tests.simulation.run --catch NAME:SEED,NAME:SEED      # is each mutant noticed?

Started again with a fixed hash seed when it has none, so that a seed's life is the same in every process.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Life, run

CATCH_WITHIN = 60  # schedules that are tried until a mutant counts as not noticed
BLOCK = 40  # lives of one process; each leaves some megabytes
PART = 1000  # lives between two lines that say how far it is
FELL_OVER = 255
_KEPT: list[Any] = []  # what lives have left


def _fix_hashes() -> None:
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation.run", *sys.argv[1:]], environment)


def _show(life: Life) -> None:
    print(f"seed {life.seed}: {life.violation}")
    for line in life.trace:
        print(f"    {line}")
    print(f"replay it: python -m tests.simulation.run --seeds {life.seed}:{life.seed + 1} --verbose", flush=True)


def _lives(options: argparse.Namespace) -> int:
    seeds = range(*map(int, options.seeds.split(":")))
    began, bad, lives = _cpu_s(), 0, 0
    for first in range(0, len(seeds), BLOCK):
        block = seeds[first : first + BLOCK]
        bad += _block(block, options)
        lives += len(block)
        if bad and options.stop:
            break
    took = _cpu_s() - began
    if not options.json:
        print(f"{lives} schedules, {bad} with a violation, {lives / took:.1f} a CPU second", flush=True)
    return 1 if bad else 0


def _cpu_s() -> float:
    """Of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _block(seeds: Sequence[int], options: argparse.Namespace) -> int:
    """Live these lives in a child process, so that nothing has to be taken apart; returns how many went wrong."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        bad = os.waitstatus_to_exitcode(status)
        if not 0 <= bad <= len(seeds):
            raise SystemExit(f"a process that lived the seeds {seeds} ended with {bad}")
        return bad
    bad = -1
    try:
        gc.disable()
        bad = sum(_one(seed, options) for seed in seeds)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(bad if bad >= 0 else FELL_OVER)


def _one(seed: int, options: argparse.Namespace) -> bool:
    switch_off = MUTANTS[options.mutant].switch_off if options.mutant else nullcontext
    life = run(seed, switch_off, on_note=print if options.verbose else None, keep=_KEPT)
    if options.json:
        print(json.dumps(asdict(life) | {"trace": life.trace if life.violation else ()}), flush=True)
    elif life.violation:
        _show(life)
    return bool(life.violation)


def _catch(cases: str, within: int) -> int:
    """Print for each mutant which seed notices it: the one that is named, or the first of a bounded number."""
    missed = 0
    for case in cases.split(","):
        name, _, first = case.partition(":")
        tried, violation, seed = 0, "", 0
        for seed in (*([int(first)] if first else []), *range(within)):
            tried += 1
            violation = run(seed, MUTANTS[name].switch_off).violation
            if violation:
                break
        missed += not violation
        print(json.dumps({"mutant": name, "seed": seed, "tried": tried, "violation": violation}), flush=True)
    return 1 if missed else 0


def _share(options: argparse.Namespace) -> int:
    """Divide the seeds between processes of their own, part after part, so that what was done is known on the way."""
    first, behind, *_ = map(int, options.seeds.split(":"))
    began, bad = time.monotonic(), 0
    for begin in range(first, behind, PART):
        end = min(begin + PART, behind)
        codes = [part.wait() for part in [_begin_part(options, begin + n, end) for n in range(options.processes)]]
        bad = max(bad, *codes)
        took = time.monotonic() - began
        print(f"{end - first} schedules in {took:.0f} s, {(end - first) / took:.1f} a second; next is seed {end}")
        sys.stdout.flush()
        if bad and options.stop:
            break
    return bad


def _begin_part(options: argparse.Namespace, first: int, behind: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.simulation.run", "--seeds", f"{first}:{behind}:{options.processes}"]
    command += ["--mutant", options.mutant] if options.mutant else []
    return subprocess.Popen([*command, *(["--stop"] if options.stop else [])])


def main() -> int:
    """Return 0 when every invariant held in every life."""
    _fix_hashes()
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:100", help="FIRST:BEHIND_THE_LAST[:STEP]")
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS])
    parser.add_argument("--catch", default="", help="NAME[:SEED],... of mutants")
    parser.add_argument("--within", type=int, default=CATCH_WITHIN, help="schedules to try for each mutant")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print every event")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each life")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    options = parser.parse_args()
    if options.processes > 1:
        return _share(options)
    warnings.simplefilter("ignore", RuntimeWarning)  # a process can be killed before a coroutine of it began
    sys.unraisablehook = lambda _: None  # coroutines of processes that were killed end when they are collected
    run(-1)  # what every life needs is there then
    gc.collect()
    gc.freeze()  # what is there now need not be looked at after each life
    return _catch(options.catch, options.within) if options.catch else _lives(options)


if __name__ == "__main__":
    sys.exit(main())
