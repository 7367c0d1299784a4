"""A capture for tests: replaying runs the recorded launches once more, over the same buffers."""

from collections.abc import Callable

from kernels_cupy.graphs import Outputs


class Rerun:
    """Stands in for the driver's graphs on a CPU. `broken` refuses, as a driver may."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        if self.broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        outputs = run()
        for output in outputs:
            output.fill_(-1)  # a capture computes nothing

        def replay() -> None:
            for place, fresh in zip(outputs, run(), strict=True):
                if place.data_ptr() != fresh.data_ptr():
                    place.copy_(fresh)

        return replay, outputs
