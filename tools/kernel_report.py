"""What the Triton kernels would do on an A100 and an H100, found out on a machine without either.

    python tools/kernel_report.py [--dtype bf16] [--only qkv_rope] [--output report.md]

Every launch of every operation, at the shapes of `kernel_cases.py`, is compiled for sm_80 and sm_90
and its machine code read: registers, spills, shared memory, tensor-core instructions, 128-bit
loads. Then it runs in Triton's interpreter, where each executed load and store is counted. Two
counts: `executed`, all bytes that programs ask for, and `memory`, in which what a launch reads
twice counts once, because it comes from L2 then (all of it fits: 40 MB on an A100, 50 on an H100).

Exit code 1 if a kernel spills, if a matrix kernel in half precision uses no tensor cores, if one
that is made of products or reads whole maps has no 128-bit loads, if one needs more shared memory
than a consumer GPU has (99 KB), or if `memory` exceeds 1.15 times the minimum. Needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from case import Case
from kernel_cases import cases
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import interpreter
from vidwm_kernels.launch import Launch

from vidwm.estimate.gpus import GPUS

ARCHITECTURES = (80, 90)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LIMIT = 1.15
SHARED_LIMIT = 99 * 1024  # of sm_86, sm_89 and sm_120; sm_80 has 163 KB, sm_90 227 KB


@dataclass(frozen=True, kw_only=True)
class Code:
    """What the machine code of one kernel says."""

    kernel: str
    arch: int
    registers: int
    spilled: int
    shared: int
    matrix: bool
    streams: bool
    tensor_core: int
    wide_loads: int

    def faults(self, half: bool) -> list[str]:
        """What must not be."""
        found = []
        if self.spilled:
            found.append(f"{self.kernel} spills {self.spilled} bytes on sm_{self.arch}")
        if self.matrix and half and not self.tensor_core:
            found.append(f"{self.kernel} uses no tensor cores on sm_{self.arch}")
        if (self.matrix or self.streams) and not self.wide_loads:
            found.append(f"{self.kernel} has no 128-bit loads on sm_{self.arch}")
        if self.shared > SHARED_LIMIT:
            found.append(
                f"{self.kernel} needs {self.shared} bytes of shared memory on sm_{self.arch}, more "
                f"than the {SHARED_LIMIT} that every GPU since Ampere has"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of one operation: what must move, what its programs ask for, what leaves memory."""

    minimum: int
    executed: int
    memory: int


def compiled(launch: Launch, arch: int) -> Code:
    """Compile one launch and read its code."""
    names = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    signature: dict[str, str] = {}
    constants, aligned = dict(launch.constants), {}
    for index, name in enumerate(launch.kernel.arg_names):
        value = launch.args.get(name)
        if name in launch.constants or value is None or (isinstance(value, int) and value == 1):
            # As Triton itself does it: what is None or 1 is compiled in.
            signature[name] = "constexpr"
            constants.setdefault(name, value)
            continue
        if isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            short = {"int64": "i64", "int32": "i32", "bool": "i1", "uint8": "u8"}
            signature[name] = "*" + (names | short)[dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            aligned[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, aligned)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _output(tools / "cuobjdump", "-res-usage", file.name)
        code = _output(tools / "nvdisasm", "-c", file.name)
    registers, local = (int(re.findall(rf"{what}:(\d+)", usage)[0]) for what in ("REG", "LOCAL"))
    operations = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]+)", code, re.M)
    wide = r"LDG\S*\.128|LDGSTS\S*\.128|UTMALDG|UBLKCP"
    return Code(
        kernel=launch.name,
        arch=arch,
        registers=registers,
        spilled=local,
        shared=kernel.metadata.shared,
        matrix=launch.matrix,
        streams=launch.streams,
        tensor_core=sum(op.startswith(("HMMA", "HGMMA")) for op in operations),
        wide_loads=sum(bool(re.match(wide, op)) for op in operations),
    )


def _output(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True
    ).stdout


def counted(case: Case, dtype: str) -> Traffic:
    """Run a case in the interpreter, counting bytes; needs TRITON_INTERPRET=1."""
    builder = type(interpreter.interpreter_builder)
    plain = builder.create_masked_load, builder.create_masked_store
    executed = 0
    sectors: dict[str, list[Any]] = {"load": [], "store": []}

    def watch(kind: str, pointers: Any, mask: Any) -> None:
        nonlocal executed
        size = pointers.get_element_ty().primitive_bitwidth // 8
        places = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        executed += places.size * size
        sectors[kind].append(np.unique(places // 32))

    def load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        watch("load", pointers, mask)
        return plain[0](self, pointers, mask, *rest)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watch("store", pointers, mask)
        return plain[1](self, pointers, value, mask, *rest)

    torch.manual_seed(0)
    tensors = case.make(DTYPES[dtype], "cpu")
    builder.create_masked_load, builder.create_masked_store = load, store
    memory = 0
    try:
        for launch in case.plan(tensors):
            launch.run()
            for kind, lists in sectors.items():
                memory += 32 * len(np.unique(np.concatenate(lists))) if lists else 0
                sectors[kind] = []
    finally:
        builder.create_masked_load, builder.create_masked_store = plain
    return Traffic(minimum=case.moved(tensors), executed=executed, memory=memory)


def traffic_of(only: str, dtype: str) -> dict[str, Traffic]:
    """Bytes by case, from a process that interprets."""
    done = _output_of_self("--count", "--only", only, "--dtype", dtype)
    return {name: Traffic(**value) for name, value in json.loads(done).items()}


def _output_of_self(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"TRITON_INTERPRET": "1", "VIDWM_KERNELS": "triton"},
    ).stdout


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--only", default="", help="part of the names of the cases to look at")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    picked = [case for case in cases() if options.only in case.name]
    if options.count:
        # Interpreting hundreds of rows takes minutes and says the same as sixteen.
        counts = {c.name: asdict(counted(c, options.dtype)) for c in picked if "x128" not in c.name}
        print(json.dumps(counts))
        return 0
    lines, faults = report(picked, options.dtype, traffic_of(options.only, options.dtype))
    text = "\n".join(lines)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    for fault in faults:
        print(f"FAULT {fault}", file=sys.stderr)
    return 1 if faults else 0


def report(
    picked: list[Case], dtype: str, traffic: dict[str, Traffic]
) -> tuple[list[str], list[str]]:
    """Lines of two Markdown tables, and what is wrong."""
    lines = [f"## Machine code, {dtype}", ""]
    lines += _row(
        "case", "kernel", "arch", "registers", "spilled", "shared", "tensor core", "128-bit"
    )
    lines += _row(*["---"] * 8)
    faults: list[str] = []
    for case in picked:
        for launch in case.plan(case.make(DTYPES[dtype], "cpu")):
            for arch in ARCHITECTURES:
                code = compiled(launch, arch)
                faults += [f"{case.name}: {fault}" for fault in code.faults(dtype != "fp32")]
                lines += _row(
                    *(case.name, code.kernel, f"sm_{arch}", code.registers, code.spilled),
                    *(code.shared, code.tensor_core, code.wide_loads),
                )
    lines += ["", f"## Bytes and floors, {dtype}", ""]
    lines += _row(
        "case", "minimum", "memory", "executed", "FLOP", *(f"floor {gpu.name}" for gpu in GPUS)
    )
    lines += _row(*["---"] * (5 + len(GPUS)))
    for case in picked:
        found = traffic.get(case.name)
        minimum = found.minimum if found else case.moved(case.make(DTYPES[dtype], "cpu"))
        if found and found.memory > LIMIT * minimum:
            ratio = found.memory / minimum
            faults.append(f"{case.name} moves {ratio:.2f} times the bytes that it must")
        floors = []
        for gpu in GPUS:
            seconds = gpu.floor(case.flops, minimum, "single" if dtype == "fp32" else "half")
            floors.append(f"{1e6 * seconds:.1f} us")
        ratios = [
            f"{value / minimum:.2f}x" if value else "-"
            for value in ((found.memory, found.executed) if found else (0, 0))
        ]
        lines += _row(
            case.name, f"{minimum / 1e6:.2f} MB", *ratios, f"{case.flops / 1e9:.3f} G", *floors
        )
    rates = "; ".join(
        f"{gpu.name} {gpu.bandwidth / 1e12:g} TB/s, {gpu.half / 1e12:g} TFLOP/s "
        f"(fp32 {gpu.single / 1e12:g})"
        for gpu in GPUS
    )
    lines += ["", f"Floors: the larger of bytes and FLOP at the data sheets' rates: {rates}."]
    return lines, faults


def _row(*cells: object) -> list[str]:
    return ["| " + " | ".join(str(cell) for cell in cells) + " |"]


if __name__ == "__main__":
    sys.exit(main())
