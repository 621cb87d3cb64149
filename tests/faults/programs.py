"""What the jobs of a fault run do, and what each must leave behind.

A program writes the ground truth itself, by O_APPEND: a line when it starts and a line when it ends.
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hostler.jobs import JobSpec, Work

FAILED_CODE = 9  # of an attempt that is to be followed by another
_SCRIPT = """
say() {{ echo "$*" >>{truth}; }}
say start $HOSTLER_ATTEMPT $$
{family}
n=0
while [ $n -lt {lines} ]; do
  echo out {number} $n; echo err {number} $n >&2
  [ {pause} = 0 ] || sleep {pause}
  n=$((n+1))
done
{outputs}
code={code}
{failing}
say end $HOSTLER_ATTEMPT $code
exit $code
"""
# Its complaint about a full disk would be in its log, where nobody expects it.
_OUTPUTS = "{{ echo output {number} >outputs/made && say output $HOSTLER_ATTEMPT; }} 2>/dev/null"
# Two children that stay, one of them in a session of its own, and below each a grandchild.
_FAMILY = """
sh -c 'sleep 300 & exec sleep 300' &
setsid sh -c 'sleep 300 & exec sleep 300' &
"""
_FAILING = '[ $(grep -c "^start $HOSTLER_JOB" {truth}) -gt {failures} ] || code={failed}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One job, before it is submitted."""

    number: int
    key: str  # idempotency key
    lines: int = 1
    pause_s: float = 0.0  # after each line
    exit_code: int = 0
    failures: int = 0  # so many starts exit with FAILED_CODE first
    retries: int = 0
    family: bool = False  # it leaves children and grandchildren behind
    outputs: bool = False
    stop_after_s: float | None = None
    grace_s: float = 0.0  # of that stop
    door: str = "grpc"  # through which it comes: "grpc", "v1" or "start"
    worker: str = ""  # of /start, which names one

    @property
    def out(self) -> bytes:
        """What each attempt writes to its standard output when nobody ends it."""
        return b"".join(b"out %d %d\n" % (self.number, line) for line in range(self.lines))

    @property
    def err(self) -> bytes:
        """The same of its standard error."""
        return b"".join(b"err %d %d\n" % (self.number, line) for line in range(self.lines))

    @property
    def output(self) -> bytes:
        """The one file that it puts out."""
        return b"output %d\n" % self.number

    def script(self, truth: Path) -> str:
        """The program, for sh."""
        return _SCRIPT.format(
            truth=truth,
            number=self.number,
            lines=self.lines,
            pause=f"{self.pause_s:g}",
            code=self.exit_code,
            family=_FAMILY if self.family else "",
            outputs=_OUTPUTS.format(number=self.number) if self.outputs else "",
            failing=_FAILING.format(truth=truth, failures=self.failures, failed=FAILED_CODE) if self.failures else "",
        )

    def spec(self, truth: Path) -> JobSpec:
        """The job as the client submits it."""
        work = Work(argv=("sh", "-c", self.script(truth)), grace_s=1.0, workspace=self.outputs)
        return JobSpec(work=work, key=self.key, retries=self.retries, slots=self.number % 4 and 1)

    def item(self, truth: Path) -> dict[str, Any]:
        """The job as an item of POST /v1/jobs."""
        spec = self.spec(truth)
        return {
            "argv": list(spec.work.argv),
            "grace": spec.work.grace_s,
            "workspace": self.outputs,
            "key": self.key,
            "retries": self.retries,
            "slots": spec.slots,
        }


def a_plan(chance: random.Random, number: int) -> Plan:
    """A job by chance: most are short, some have a family, outputs, retries or an early end."""
    retries = chance.choice((0, 0, 0, 1, 2))
    plan = Plan(
        number=number,
        key=f"key-{number}-{chance.getrandbits(32):08x}",
        lines=chance.choice((1, 3, 10, 10, 20)),
        pause_s=chance.choice((0, 0.02, 0.05, 0.1, 0.3)),
        exit_code=chance.choice((0, 0, 0, 1, 7, 41, 255)),
        failures=chance.randint(0, retries),
        retries=retries,
        family=chance.random() < 0.2,
        outputs=chance.random() < 0.2,
        stop_after_s=chance.uniform(0, 1.5) if chance.random() < 0.2 else None,
        grace_s=chance.choice((0, 0, 0.5)),
        door=chance.choice(("grpc", "grpc", "grpc", "v1", "v1", "start")),
        worker=chance.choice(("w1", "w2")),
    )
    if plan.door == "start":  # a program and its argument, and nothing more
        return replace(plan, retries=0, failures=0, outputs=False, grace_s=0.0)
    return replace(plan, worker="")
