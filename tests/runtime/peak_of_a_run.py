"""Prints how many bytes one run of a joint graph takes at most, above what is resident before it.

Called as `python -m tests.runtime.peak_of_a_run JOINT.onnx FEEDS.npz`, with glibc told by MALLOC_MMAP_THRESHOLD_ to map
each tensor alone and the runtime's arena off, so that what is freed is returned at once and no fragments count.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np
import onnxruntime

import onnxgrad


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main(joint: str, feeds: str) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = 1
    session = onnxgrad.load(joint).session(providers=["CPUExecutionProvider"], options=options)
    inputs = dict(np.load(feeds))
    session.grad({name: array[:1] for name, array in inputs.items()})
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark, proc_pid_clear_refs(5)
    before = resident("VmRSS")
    session.grad(inputs)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
