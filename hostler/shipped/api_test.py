"""The workload ``api_test``: a job that answers at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostler.script import Context


def main(ctx: "Context", params: Any) -> dict[str, Any]:
    """Answer at once with the parameters as they came."""
    ctx.total(1)
    ctx.step("saying hello")
    print("Hello World!")
    ctx.done()
    return {"output": "Hello World!", "params": params}
