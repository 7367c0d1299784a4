"""Arithmetic on one line, read as a syntax tree and never evaluated as code."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.tools.contract import ToolError

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "min": min, "max": max, "round": round, "sqrt": math.sqrt, "gcd": math.gcd,
    "floor": math.floor, "ceil": math.ceil, "log": math.log, "exp": math.exp,
    "sin": math.sin, "cos": math.cos, "tan": math.tan,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}
MAX_BITS = 4096  # of a whole number on the way


@dataclass(frozen=True, slots=True)
class Calculator:
    name: str = "calculator"
    description: str = "Evaluate an arithmetic expression, e.g. (3 + 4) * 2 ** 5."
    max_chars: int = 400

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
            "additionalProperties": False,
        }

    def __call__(self, **arguments: Any) -> Any:
        return {"value": evaluate(str(arguments["expression"]), self.max_chars)}


def evaluate(expression: str, max_chars: int = 400) -> int | float:
    if len(expression) > max_chars:
        raise ToolError(
            f"an expression of at most {max_chars} characters is wanted, {len(expression)} came"
        )
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        value = _value(tree.body)
    except SyntaxError as error:
        raise ToolError(f"{expression!r} is no expression: {error.msg}") from error
    except (ArithmeticError, ValueError, TypeError) as error:
        if isinstance(error, ToolError):
            raise
        raise ToolError(f"{expression!r}: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise ToolError("the expression is nested too deeply") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError(f"{expression!r} is not finite")
    return value


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _bounded(_UNARY[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _value(left), _value(right)
            if isinstance(op, ast.Pow):
                _check_power(a, b)
            return _bounded(_BINARY[type(op)](a, b))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*[_value(argument) for argument in args]))
    raise ToolError(f"{ast.unparse(node)[:60]!r} is not arithmetic; numbers, + - * / // % ** and"
                    f" {', '.join(_FUNCTIONS)} are")  # fmt: skip


def _check_power(base: int | float, exponent: int | float) -> None:
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if whole and int(base).bit_length() * int(exponent) > MAX_BITS:
        raise ToolError(f"{base} ** {exponent} has more than {MAX_BITS} bits")


def _bounded(value: Any) -> int | float:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ToolError(f"a number on the way has more than {MAX_BITS} bits")
    if not isinstance(value, int | float):
        raise ToolError(f"a real number is wanted, {value!r} came")
    return value
