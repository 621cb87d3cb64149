"""What is wrong with how a stop went: whatever is left, and a receipt that says more or less than was proved."""

from tests.zoo.keeper import Finding
from tests.zoo.programs import Program


def wrong_of(program: Program, finding: Finding) -> list[str]:
    """Say what is wrong with a finding."""
    wrong = [f"left: {line}" for line in finding.left]
    wrong += [f"survivor: {line}" for line in finding.survivors]
    if finding.hidden:
        wrong.append(f"{finding.hidden} processes without a mark were left")
    if finding.hidden and finding.verified_by:
        wrong.append(f"the receipt says verified by {finding.verified_by}, and {finding.hidden} processes live")
    # Without a supervisor and without a cgroup there is no proof, and the receipt says so.
    unprovable = program.kills_shim and finding.start_path == "warm"
    if not finding.verified_by and not unprovable:
        wrong.append("not verified")
    if finding.start_path == "hardened" and not finding.verified_by.startswith("namespace"):
        wrong.append(f"verified by {finding.verified_by}")
    return wrong
