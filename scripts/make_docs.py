"""Write the documents that repeat the code: job states, settings, log events. ``--check`` only compares."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hostler import frames  # noqa: E402
from hostler.causes import CAUSES  # noqa: E402
from hostler.lifecycle import MEANINGS, TRANSITIONS, Event, Outcome, State  # noqa: E402
from hostler.logs import EVENTS  # noqa: E402
from hostler.pending import MEANINGS as REASONS  # noqa: E402
from hostler.settings import descriptions  # noqa: E402

NOTE = "<!-- Written by scripts/make_docs.py; edit the code, not this file. -->\n"
OUTCOME_MEANINGS = {
    Outcome.SUCCEEDED: "the program exited with code 0",
    Outcome.FAILED: "another exit code, a signal that was not ours, a limit it reached, or it could not be started",
    Outcome.STOPPED: "a stop request ended it, or the drain of its worker",
    Outcome.TIMED_OUT: "its own time limit ended it, or it had not started by its start deadline",
    Outcome.LOST: "the worker or its supervisor was lost; how it ended is not known",
    Outcome.REJECTED: "no worker would run it, or its stage could not take the result of the one before",
}
CAUSE_NOTES = (
    "- What we asked for before the end of the program was seen is the cause, then limits of the job that were reached,"
    " then what the kernel counted, then the program's own end.",
    "- `memory_limit`: the kernel ended the program or another process of the tree, as the counter of the tree's own"
    " control group says. The program's exit code or signal is kept. A program that outlives it and exits with 0 has"
    " succeeded, and its evidence tells of it.",
    "- `out_of_memory`: the counter of the worker's own memory group, or of one above it, rose while the program ran,"
    " and it was ended by a SIGKILL that nobody sent here, or exited with 137, a shell's word for that.",
    "- `output_limit`: with `output_stop`, as soon as more than `output_bytes_max` was written, also when the program"
    " was over by then. The log has all up to the limit, and says how much is missing.",
    "- Of a container only the kernel's log tells who reached its memory limit; where that cannot be read, the cause is"
    " `exit` with code 137.",
)

PENDING = (
    "A job that is queued has at least one reason for it. `hostler explain ID` and `GET /v1/jobs/{id}/explain` say each"
    " with its code, and with how many workers it keeps from taking the job; as sentences they are `pending` of every"
    " answer about the job."
)
PENDING_NOTES = (
    "- Each worker counts once, by the first of the codes up to `sent_ahead` that holds, in this order: what lasts"
    " comes before what passes. `explain` besides names the worker that comes nearest, with everything that it misses.",
    "- `behind` is said of all but the first of the jobs that ask for the same (labels, worker, slots, workload and so"
    " on); `explain` says how many come before, up to about a thousand.",
    "- A stage of a chain is queued when the stage before it has ended, and waits for no other job. A start deadline is"
    " no reason: a job that waits beyond it is over, as `timed_out`, and its evidence says what it waited for.",
)

FRAMES = (
    "## The frames of a job's log",
    "",
    "What a job puts out is no log of these programs: `Jobs.ReadLog` sends it as frames, one behind the other. A frame"
    f" is a header of {frames.HEADER_BYTES} bytes and a payload; its numbers have no sign and their lowest byte first.",
    "",
    "| bytes | what |",
    "|---|---|",
    f"| 0 to 3 | length of the payload, at most {frames.OUTPUT_BYTES_MAX:,} |",
    "| 4 to 7 | CRC-32, as of zlib, of everything behind it: bytes 8 to 19 and the payload |",
    "| 8 | kind |",
    "| 9 to 11 | 0 |",
    "| 12 to 19 | when the worker has read it, in microseconds since 1970: for display only, as clocks are set |",
    "",
    "| kind | payload |",
    "|---|---|",
    f"| {frames.OUT} | bytes of standard output |",
    f"| {frames.ERR} | bytes of standard error |",
    f"| {frames.GAP} | two numbers of 8 bytes: so many of standard output and of standard error were dropped here |",
    "",
    "- A chunk holds whole frames. Where one ends means nothing: a line, or a character, may go on in the next of its"
    " kind.",
    "- A position counts the bytes of the frames before it, headers included. The next chunk begins at `position` and"
    " the length of `frames` together.",
    "- Pass over kinds that you do not know.",
)


def job_states() -> str:
    """The lifecycle table as a diagram and as tables."""
    lines = ["# Job states", "", NOTE, "```mermaid", "stateDiagram-v2", "    [*] --> queued"]
    for (state, event), target in TRANSITIONS.items():
        lines.append(f"    {state.word} --> {target.word}: {event.name.lower()}")
    lines += ["    finished --> [*]", "```", "", "| state | " + " | ".join(e.name.lower() for e in Event) + " |"]
    lines.append("|---" * (len(Event) + 1) + "|")
    for state in State:
        cells = (TRANSITIONS.get((state, event)) for event in Event)
        lines.append(f"| **{state.word}** | " + " | ".join(c.word if c else "" for c in cells) + " |")
    lines += ["", "An empty cell is an illegal step: nothing changes.", "", "| state | meaning |", "|---|---|"]
    lines += [f"| {state.word} | {MEANINGS[state]} |" for state in State]
    lines += ["", "| outcome | meaning |", "|---|---|"]
    lines += [f"| {outcome.word} | {meaning} |" for outcome, meaning in OUTCOME_MEANINGS.items()]
    lines += ["", "An attempt ends by one cause; `hostler explain ID` says what was seen that speaks for it."]
    lines += ["", "| cause | outcome | meaning |", "|---|---|---|"]
    for cause, (outcome, meaning) in CAUSES.items():
        lines.append(f"| `{cause}` | {outcome.word or 'succeeded for code 0, else failed'} | {meaning} |")
    lines += ["", *CAUSE_NOTES, "", PENDING, "", "| code | meaning |", "|---|---|"]
    lines += [f"| `{code}` | {meaning} |" for code, meaning in REASONS.items()]
    lines += ["", *PENDING_NOTES]
    return "\n".join(lines) + "\n"


def settings() -> str:
    """Every setting with its default and its meaning."""
    lines = [
        "# Settings",
        "",
        NOTE,
        "Flags win over the environment (`HOSTLER_` and the name in capitals), the environment over the TOML file"
        " (`--config FILE` or `HOSTLER_CONFIG`), the file over the defaults. An unknown key in the file is an error.",
        "",
        "| name | default | meaning |",
        "|---|---|---|",
    ]
    for name, (default, meaning) in descriptions().items():
        shown = "the user's data directory" if name == "data_dir" else f"`{default!r}`"
        lines.append(f"| `{name}` | {shown} | {meaning} |")
    return "\n".join(lines) + "\n"


def log_events() -> str:
    """Every event of the structured logs, and how those of jobs are written."""
    lines = ["# Log events", "", NOTE, "Logs go to standard error: JSON lines, or text on a terminal.", ""]
    lines += ["| event | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in EVENTS.items()]
    lines += ["", *FRAMES]
    return "\n".join(lines) + "\n"


DOCUMENTS = {"docs/job-states.md": job_states, "docs/settings.md": settings, "docs/logs.md": log_events}


def main() -> int:
    """Write or compare."""
    stale = []
    for name, make in DOCUMENTS.items():
        path, text = ROOT / name, make()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv[1:]:
                path.write_text(text)
    for name in stale:
        print(f"{name}: {'stale; run scripts/make_docs.py' if '--check' in sys.argv[1:] else 'written'}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
