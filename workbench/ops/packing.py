"""Weights in the forms that torch multiplies fastest on a CPU: as loaded, bf16 prepacked, int4."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["as loaded", "bf16 prepacked", "int4"]
FORMS: tuple[Form, ...] = ("as loaded", "bf16 prepacked", "int4")
Q4_GROUP = 32  # columns that share one scale and one minimum


@dataclass(frozen=True, slots=True, eq=False)
class GroupedQ4:
    """A 4-bit weight as in a GGUF file: value = code * scale + minimum, in groups of 32 columns."""

    codes: Tensor  # [out, in] uint8, 0 .. 15
    scale: Tensor  # [out, in / 32] float32
    minimum: Tensor  # [out, in / 32] float32

    def dense(self) -> Tensor:
        """[out, in] float32."""
        rows, columns = self.codes.shape
        grouped = self.codes.view(rows, -1, Q4_GROUP).float()
        return (grouped * self.scale[..., None] + self.minimum[..., None]).view(rows, columns)

    @staticmethod
    def cat(parts: "list[GroupedQ4]") -> "GroupedQ4":
        """Weights stacked along `out`."""
        return GroupedQ4(
            torch.cat([p.codes for p in parts]),
            torch.cat([p.scale for p in parts]),
            torch.cat([p.minimum for p in parts]),
        )


class PlainLinear:
    """The weight as it is, through `torch.nn.functional.linear`."""

    form = "as loaded"

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class PrepackedLinear:
    """bf16, reordered once into oneDNN's blocked layout."""

    form = "bf16 prepacked"

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16))
        self._bias = None if bias is None else bias.to(torch.bfloat16)
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self._multiply(x, self._weight, self._bias, "none", [], "")
        return y


class Int4Linear:
    """4-bit codes with the file's own scales for few tokens, bf16 prepacked for many.

    The int4 kernel is bound by its arithmetic from `WIDE` tokens up, where bf16 is faster; so both
    forms are kept, and a prompt runs through the second.
    """

    form = "int4 (file groups)"
    WIDE = 16  # tokens

    def __init__(self, weight: GroupedQ4, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.codes.shape
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 1)
        # the kernel reads (code - 8) * scale + zero
        zero = weight.minimum + 8 * weight.scale
        self._groups = torch.stack([weight.scale, zero], -1).transpose(0, 1)
        self._groups = self._groups.to(torch.bfloat16).contiguous()  # [in / 32, out, 2]
        self._bias = None if bias is None else bias.to(torch.bfloat16)
        self._wide = PrepackedLinear(weight.dense(), bias)
        self._multiply = torch.ops.aten._weight_int4pack_mm_for_cpu.default

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] >= self.WIDE:
            return self._wide(x)
        y: Tensor = self._multiply(x, self._packed, Q4_GROUP, self._groups)
        return y if self._bias is None else y.add_(self._bias)


def can_prepack() -> bool:
    """Whether oneDNN serves bf16 on this CPU at all."""
    available: Any = torch.backends.mkldnn.is_available
    return bool(available()) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
