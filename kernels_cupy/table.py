"""Every instance that the ops declare: what CI compiles for each of its targets without a GPU."""

from kernels_cupy import (
    expert_mlp,
    extend_attention,
    move_kv,
    paged_attention,
    rms_norm,
    route,
    sample,
    silu_mul,
    store_kv,
    timing,
)
from kernels_cupy.launch import Instance

INSTANCES: tuple[Instance, ...] = (
    *rms_norm.INSTANCES,
    *silu_mul.INSTANCES,
    *store_kv.INSTANCES,
    *store_kv.TABLE,
    *move_kv.INSTANCES,
    *paged_attention.INSTANCES,
    *extend_attention.INSTANCES,
    *route.INSTANCES,
    *expert_mlp.INSTANCES,
    *sample.INSTANCES,
    *timing.INSTANCES,
)
