"""The workload ``altron_reply``: answers a list of chat messages with a short reply.

It is what answers until an operator puts a bot of their own in its place, and it says so.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostler.script import Context

Number = int | float

NUMBER_MAX = 10**30
EXPRESSION_CHARACTERS_MAX = 200
QUOTE_CHARACTERS_MAX = 80
SENDERS_MAX = 5
EXPRESSION = re.compile(r"[\d\s.+\-*/%^()]*")
ASKING = re.compile(r"^(?:what(?:'s| is)|how much is|calculate|compute|eval)\s+", re.IGNORECASE)
ADDRESSED = re.compile(r"^@?altron\b[\s,:!]*", re.IGNORECASE)
HELP = (
    "I am hostler's default reply program. I know: ping; help; arithmetic such as 2 * (3 + 4); for anything else I say "
    "who said what. To get real answers, put your own program in my place with the setting altron_reply_workload."
)
NOTE = "(hostler's default reply program; say help for what I know)"
OPERATIONS: dict[type[ast.AST], Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class NotArithmetic(ValueError):
    """A text that is no arithmetic, or gives no number worth answering."""


def main(ctx: "Context", params: Any) -> dict[str, Any]:
    """Answer the last message of a list."""
    return {"text": reply(params)}


def reply(messages: list[dict[str, Any]]) -> str:
    """Return what to say to *messages*, a list of ``{"sender", "text", "image"}``, oldest first."""
    said = ADDRESSED.sub("", messages[-1]["text"].strip())
    word = said.strip(" .!?").casefold()
    if word == "ping":
        return "pong"
    if word in ("help", "what can you do"):
        return HELP
    expression = ASKING.sub("", said).strip(" =?")
    try:
        return f"{expression} = {calculate(expression)}"
    except NotArithmetic:
        return summary(messages)


def calculate(text: str) -> str:
    """Return the value of an arithmetic expression.

    Raises:
        NotArithmetic: it is none, divides by zero, or its value is beyond every use.
    """
    if len(text) > EXPRESSION_CHARACTERS_MAX or not EXPRESSION.fullmatch(text):
        raise NotArithmetic(text)
    try:
        expression = ast.parse(text.replace("^", "**"), mode="eval").body
        if not isinstance(expression, ast.BinOp):
            raise NotArithmetic(text)  # a number alone is no question
        value = _value(expression)
    except (SyntaxError, ArithmeticError, MemoryError, RecursionError) as error:
        raise NotArithmetic(text) from error
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number):
            value: Number = number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            first, second = _value(left), _value(right)
            # Checked before, because the powers of large numbers never end.
            if isinstance(op, ast.Pow) and (abs(second) > 100 or abs(first) > 1_000_000):
                raise NotArithmetic("too large a power")
            value = OPERATIONS[type(op)](first, second)
        case _:
            raise NotArithmetic("no arithmetic")
    if isinstance(value, complex) or not abs(value) <= NUMBER_MAX:
        raise NotArithmetic("too large a number")
    return value


def summary(messages: list[dict[str, Any]]) -> str:
    """Say who said what: everyone's number of messages and pictures, and their last words."""
    by_sender: dict[str, list[dict[str, Any]]] = {}
    for message in messages:
        by_sender.setdefault(message["sender"], []).append(message)
    count = len(messages)
    lines = [f"I have read {count} {'message' if count == 1 else 'messages'}."]
    for sender, theirs in list(by_sender.items())[-SENDERS_MAX:]:
        pictures = sum(1 for message in theirs if message.get("image"))
        words = " ".join(theirs[-1]["text"].split())
        if len(words) > QUOTE_CHARACTERS_MAX:
            words = words[: QUOTE_CHARACTERS_MAX - 3] + "..."
        seen = f", {pictures} with a picture" if pictures else ""
        lines.append(f'{sender} ({len(theirs)}{seen}): "{words}"')
    if len(by_sender) > SENDERS_MAX:
        lines.append(f"and {len(by_sender) - SENDERS_MAX} others before them")
    return "\n".join([*lines, NOTE])
