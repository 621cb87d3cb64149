"""``python -m tests.simulation.run``: live through seeds, print the rate, and what is wrong with which seed.

    python -m tests.simulation.run --seeds 0:100 [--mutant NAME] [--verbose] [--json]

Started again with a fixed hash seed when it has none, so that a seed's life is the same in every process.
"""

import argparse
import gc
import json
import os
import sys
import time
import warnings
from dataclasses import asdict

from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Life, run


def _fix_hashes() -> None:
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation.run", *sys.argv[1:]], environment)


def _show(life: Life) -> None:
    print(f"seed {life.seed}: {life.violation}")
    for line in life.trace:
        print(f"    {line}")
    print(f"replay it: python -m tests.simulation.run --seeds {life.seed}:{life.seed + 1} --verbose", flush=True)


def main() -> int:
    """Return 0 when every invariant held in every life."""
    _fix_hashes()
    warnings.simplefilter("ignore", RuntimeWarning)  # a process can be killed before a coroutine of it began
    sys.unraisablehook = lambda _: None  # coroutines of processes that were killed end when they are collected
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:100", help="FIRST:BEHIND_THE_LAST[:STEP]")
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS])
    parser.add_argument("--verbose", action="store_true", help="print every event")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each life")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()  # what is there now need not be looked at after each life
    mutant = {"mutant": MUTANTS[options.mutant].switch_off} if options.mutant else {}
    seeds = range(*map(int, options.seeds.split(":")))
    began, lives, bad = time.process_time(), 0, 0
    for seed in seeds:
        life = run(seed, on_note=print if options.verbose else None, **mutant)
        lives += 1
        bad += bool(life.violation)
        if options.json:
            print(json.dumps(asdict(life) | {"trace": life.trace if life.violation else ()}), flush=True)
        elif life.violation:
            _show(life)
        if life.violation and options.stop:
            break
    took = time.process_time() - began
    if not options.json:
        print(f"{lives} schedules, {bad} with a violation, {lives / took:.1f} a CPU second")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
