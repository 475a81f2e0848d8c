"""Memory mappings of suspects."""

from __future__ import annotations

from minerwatch.detection.facts import measured
from minerwatch.model import ProcessId
from minerwatch.node.memory_maps import Mappings
from minerwatch.probes.base import ReaderProbe


class MappingsProbe(ReaderProbe[Mappings]):
    """Facts: JitMiB, LargestAnonymousMiB, LargestFileMiB, GpuLibraries."""

    name = "mappings"
    every_s = 60.0

    def _receive(self, process: ProcessId, answer: Mappings, at_s: float) -> None:
        del at_s
        self._facts[process] = measured(
            JitMiB=answer.jit_mib,
            LargestAnonymousMiB=answer.largest_anonymous_mib,
            LargestFileMiB=answer.largest_file_mib,
            GpuLibraries=tuple(sorted(answer.gpu_libraries)) or None,
        )
