"""What a class's source says that it computes: a gated MLP, logits that are a bare matrix times its input. Chapter 14.

Read word for word; whatever reads otherwise is not recognised, and runs the plain way.
"""

import ast
import inspect
import textwrap
from functools import cache
from typing import Any

_FORMULA = "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"


def is_gated_mlp(kind: Any) -> bool:
    """Whether a class's forward is, read word for word, down(act(gate(x)) · up(x)) and nothing else."""
    return _reads_gated(kind.forward)


@cache
def _reads_gated(forward: Any) -> bool:
    try:
        function: Any = ast.parse(textwrap.dedent(inspect.getsource(forward))).body[0]
    except (OSError, TypeError, SyntaxError):
        return False  # what it computes cannot be read
    if hasattr(forward, "__wrapped__") or function.decorator_list:
        return False  # what is read is not all
    return list(inspect.signature(forward).parameters) == ["self", "x"] and ast.unparse(function.body) in (
        f"return {_FORMULA}",
        f"down_proj = {_FORMULA}\nreturn down_proj",
    )


def gives_bare_logits(kind: Any) -> bool:
    """Whether a class's forward, read word for word, takes its logits from `lm_head` and does nothing to them (no cap, no scale)."""
    return _reads_bare(kind.forward)


@cache
def _reads_bare(forward: Any) -> bool:
    inner = forward
    while hasattr(inner, "__wrapped__"):  # a wrapper; transformers' own leave logits alone
        if not getattr(inner, "__globals__", {}).get("__name__", "").startswith("transformers."):
            return False
        inner = inner.__wrapped__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inner)))
    except (OSError, TypeError, SyntaxError):
        return False
    nodes = list(ast.walk(tree))
    made = [
        ast.unparse(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and "logits" in map(ast.unparse, node.targets)
    ]
    passed_on = [node for node in nodes if isinstance(node, ast.keyword) and ast.unparse(node) == "logits=logits"]
    named = [node for node in nodes if isinstance(node, ast.Name) and node.id == "logits"]
    return made == ["self.lm_head(hidden_states)"] and len(named) == 1 + len(passed_on)
