"""``python -m tests.zoo [NAME...]``: every program in every containment on both start paths, as one table.

Exit codes: 0 nothing was left, 1 something was.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

from tests.zoo.expected import wrong_of
from tests.zoo.keeper import START_PATHS, Finding, a_cage
from tests.zoo.programs import FULL, PROGRAMS, SMALL
from tests.zoo.surroundings import a_small_disk
from worker_agent.cgroups import Containment


async def _all(
    names: list[str], containments: list[Containment], *, small: bool, times: int
) -> list[tuple[Finding, list[str]]]:
    found = []
    for containment in containments:
        place = Path(tempfile.mkdtemp(prefix="hz-"))
        try:
            with a_small_disk(place / "disk"):
                async with a_cage(place, uuid.uuid4().hex[:12], containment) as cage:
                    for program in PROGRAMS:
                        if names and program.name not in names:
                            continue
                        for start_path in START_PATHS * times:
                            finding = await cage.stop_one(program, start_path, SMALL if small else FULL)
                            wrong = wrong_of(program, finding)
                            _show(finding, wrong)
                            found.append((finding, wrong))
        finally:
            shutil.rmtree(place)
    return found


def _show(finding: Finding, wrong: list[str]) -> None:
    verdict = "; ".join(wrong) if wrong else "nothing left"
    proof = finding.verified_by or "not verified"
    print(
        f"{finding.program:20} {finding.containment:8} {finding.start_path:9} {finding.seconds * 1000:7.0f} ms  "
        f"{proof:17} {verdict}",
        flush=True,
    )


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="programs; none: all")
    parser.add_argument("--small", action="store_true", help="as the quick suite has them")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--containment", type=Containment, action="append", help="one or more; none: all")
    arguments = parser.parse_args()
    found = asyncio.run(
        _all(arguments.names, arguments.containment or list(Containment), small=arguments.small, times=arguments.times)
    )
    bad = sum(bool(wrong) for _, wrong in found)
    print(f"{len(found)} stops, {bad} violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
