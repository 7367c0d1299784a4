"""Kernels that only choose: the variant for a form and a row count, behind one name each."""

from collections.abc import Mapping

from workbench.cpu import attend, dots, rows
from workbench.cpu.emit import I64, Code, Kernel, Value


def choice(name: str, kinds: str, variants: Mapping[int, Kernel]) -> Kernel:
    """A kernel of (number, …) that calls the variant of that number; others do nothing."""

    def body(code: Code, number: Value, *args: Value) -> None:
        b = code.b
        end = b.append_basic_block("end")
        words = [
            b.ptrtoint(a, I64) if kind == "p" else a for a, kind in zip(args, kinds, strict=True)
        ]
        switch = b.switch(number, end)
        for key, kernel in variants.items():
            block = b.append_basic_block(kernel.name)
            switch.add_case(I64(key), block)
            b.position_at_end(block)
            b.call(kernel.define(code.module, code.isa), words)
            b.branch(end)
        b.position_at_end(end)

    return Kernel(name, f"i{kinds}", body)


def scores(half: bool) -> Kernel:
    variants = {n: attend.scores(n, half) for n in range(1, attend.GROUP + 1)}
    return choice("scores", variants[1].kinds, variants)


def values(half: bool) -> Kernel:
    variants = {n: attend.values(n, half) for n in range(1, attend.GROUP + 1)}
    return choice("values", variants[1].kinds, variants)


_PRODUCTS = {
    form.code * 16 + m: dots.product(form, m)
    for form in dots.FORMS
    for m in range(1, dots.PANEL + 1)
}
_EMBEDS = {form.code: rows.embed(form) for form in dots.FORMS}

MULTIPLY = choice("multiply", _PRODUCTS[1].kinds, _PRODUCTS)  # number: form * 16 + rows
EMBED = choice("embed", _EMBEDS[0].kinds, _EMBEDS)  # number: form
