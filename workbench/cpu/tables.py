"""The tables of one net that every step's plan points at: layers, matrices, norms, constants."""

import numpy as np
from numpy.typing import NDArray

from workbench.cpu import fields as f
from workbench.cpu.dots import ROWS
from workbench.cpu.memory import yielder
from workbench.cpu.weights import PackedNet, Placed
from workbench.forward import StopFlag

QK_NORMS = {"none": f.NO_QK_NORM, "per-head": f.PER_HEAD, "full-width": f.FULL_WIDTH}


class NetTables:
    """`words` is a plan with everything filled in that does not change from step to step."""

    def __init__(self, net: PackedNet) -> None:
        self._net = net
        s = net.shape
        self._matrices = {name: self._matrix(at) for name, at in net.matrices.items()}
        self._layers = np.stack([self._layer(index) for index in range(s.layers)])
        self._reals = self._constants()
        self._never = StopFlag()
        words = self.words = np.zeros(f.PLAN_WORDS, np.int64)
        words[f.WIDTH], words[f.HEADS], words[f.KV_HEADS] = s.width, s.heads, s.kv_heads
        words[f.DIM], words[f.FFN], words[f.QK_NORM] = s.head_dim, s.ffn, QK_NORMS[s.qk_norm]
        words[f.LAYERS] = self._layers.ctypes.data
        words[f.EMBEDDING] = self._address("embedding")
        words[f.HEAD] = self._address("embedding" if s.tied_head else "head")
        words[f.FINAL_NORM] = net.address(net.vectors["final_norm"][0])
        words[f.REALS] = self._reals.ctypes.data
        words[f.YIELDER] = yielder()
        if s.moe is not None:
            words[f.EXPERTS], words[f.TOP_K] = s.moe.count, s.moe.k
            words[f.NORMALISE], words[f.EXPERT_FFN] = int(s.moe.norm_topk_prob), s.moe.ffn

    def arm(self, words: NDArray[np.int64], flag: StopFlag | None) -> None:
        """Let the plan watch `flag`; None: nothing stops it."""
        words[f.STOP_FLAG] = (flag or self._never).word.data_ptr()

    def _layer(self, index: int) -> NDArray[np.int64]:
        words = np.zeros(f.LAYER_WORDS, np.int64)
        for number, name in (
            (f.QKV, "qkv"), (f.OUT, "out"), (f.GATE_UP, "gate_up"), (f.DOWN, "down"),
        ):  # fmt: skip
            words[number] = self._address(f"{index}.{name}")
        for number, name in (
            (f.ATTENTION_NORM, "attention_norm"), (f.MLP_NORM, "mlp_norm"),
            (f.Q_NORM, "q_norm"), (f.K_NORM, "k_norm"), (f.ROUTER, "router"),
        ):  # fmt: skip
            if (at := self._net.vectors.get(f"{index}.{name}")) is not None:
                words[number] = self._net.address(at[0])
        words[f.WINDOW] = self._net.shape.sliding[index] or 0
        return words

    def _matrix(self, at: Placed) -> NDArray[np.int64]:
        """A descriptor a part, each naming the one behind it."""
        words = np.zeros((len(at.parts), f.MATRIX_WORDS), np.int64)
        done = 0
        for row, part in zip(words, at.parts, strict=True):
            form = part.packed_form
            size = at.blocks * form.block
            row[f.DATA], row[f.FORM] = self._net.address(part.offset) - done * size, form.code
            row[f.TILES], row[f.BLOCKS], row[f.TILE_BYTES] = -(-at.out // ROWS), at.blocks, size
            row[f.BIAS] = 0 if at.bias < 0 else self._net.address(at.bias)
            done += part.tiles
            row[f.STOP] = done
        words[:-1, f.NEXT] = words.ctypes.data + np.arange(1, len(words)) * f.MATRIX_WORDS * 8
        return words

    def _address(self, name: str) -> int:
        return int(self._matrices[name].ctypes.data)

    def _constants(self) -> NDArray[np.float32]:
        s = self._net.shape
        reals = np.zeros(f.REAL_WORDS, np.float32)
        reals[f.EPS], reals[f.ATTENTION_SCALE] = s.norm_eps, s.attention_scale
        reals[f.INVERSE_WIDTH], reals[f.INVERSE_DIM] = 1 / s.width, 1 / s.head_dim
        reals[f.INVERSE_Q] = 1 / (s.heads * s.head_dim)
        reals[f.INVERSE_K] = 1 / (s.kv_heads * s.head_dim)
        reals[f.CLIP] = s.clip_qkv or 0.0
        return reals
