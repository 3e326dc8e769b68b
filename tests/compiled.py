"""Compiles kernels for GPUs that are not there, and reads what came out: `reports("search")`.

A kernel file takes part by having a function `compile_cases()`, beside the table of configurations that its launcher
uses and covering all of it. It returns a list of dicts:

    {
        "name": "K=256 D=8",                      unique in the file; tests pick cases by it
        "kernel": _search_kernel,                 what triton.jit made
        "signature": {"z": "*fp32", "N": "i32"},  every argument that is no constant, typed as Triton spells it
        "constants": {"D": 8, "BLOCK": 64},       every tl.constexpr, and what a launch would make constant: None, 1
        "aligned": ["N"],                         integers that are multiples of 16, as a launch would notice
        "options": {"num_warps": 4},              num_warps, num_stages; enable_fp_fusion, which is on unless named
    }

An argument that is a NamedTuple is one in the signature, "constexpr" where it holds a constant, and in the constants.
Pointers count as multiples of 16, as those of torch are. `reports` then gives a dict for each case and architecture:

    name, constants   as in the case
    arch              80 or 90
    registers, stack  of a thread: registers, bytes
    shared            bytes of a program
    warps, dots       num_warps; how many tl.dot the program has
    opcodes           {"FADD": 12, "LDG.E.128": 2, ...}: how many SASS instructions of each kind the program has
    main              the same of its main loop
    spills            LDL and STL among them

The main loop is the innermost loop with the most tensor-core instructions, or the most instructions if none has any;
empty where there is no loop. `count(opcodes, "HMMA", "HGMMA")` adds up what begins with these names.

test_compile.py holds every case of every kernel file to what all have to keep: no spills, shared memory within limits,
tensor cores where there is a tl.dot. What else a kernel promises, its own test file reads from the same reports.

Run as a script, because Triton compiles nothing once its interpreter is on in a process.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).parent.parent / "kernels"
ARCHITECTURES = (80, 90)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes a program may have

INSTRUCTION = re.compile(r"^\s*(?:/\*[0-9a-f]+\*/)?\s*(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);")
LABEL = re.compile(r"^(\.L\w+):")
TARGET = re.compile(r"`\((\.L\w+)\)")


def kernel_files() -> list[str]:
    """Names of the kernel files that have something to compile."""
    return sorted(path.stem for path in KERNELS.glob("*.py") if "def compile_cases(" in path.read_text())


@functools.cache
def reports(file: str) -> list[dict[str, Any]]:
    """What became of each case of a kernel file on each architecture."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, __file__, file]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"kernels/{file}.py does not compile:\n{run.stderr[-4000:]}")
    found: list[dict[str, Any]] = json.loads(run.stdout)
    return found


def count(opcodes: dict[str, int], *names: str) -> int:
    """How many of these instructions there are: "HMMA" counts all its kinds, "LDG.E.128" that one."""
    return sum(number for opcode, number in opcodes.items() if opcode.startswith(names))


def main_loop(code: list[tuple[str, str]]) -> list[str]:
    """Opcodes of the main loop of a program of (label or opcode, its operands)."""
    places = {name: place for place, (name, _) in enumerate(code) if name.startswith(".L")}
    loops = []
    for end, (opcode, operands) in enumerate(code):
        target = TARGET.search(operands) if opcode.startswith("BRA") else None
        if target and places.get(target[1], end) < end:
            loops.append((places[target[1]], end + 1))
    inner = [
        one for one in loops if not any(one != other and one[0] <= other[0] < other[1] <= one[1] for other in loops)
    ]
    bodies = [[name for name, _ in code[begin:end] if not name.startswith(".L")] for begin, end in inner]
    weight = lambda body: (count(Counter(body), "HMMA", "HGMMA"), len(body))  # noqa: E731
    return max(bodies, key=weight, default=[])


def disassemble(cubin: bytes) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Instructions and labels in order, and what a thread takes: {"REG": .., "STACK": ..}."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        ask = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
        listing = ask([knobs.nvidia.nvdisasm.path, "-c", file.name]).stdout
        usage = ask([knobs.nvidia.cuobjdump.path, "-res-usage", file.name]).stdout
    code = []
    for line in listing.splitlines():
        label, instruction = LABEL.match(line), INSTRUCTION.match(line)
        if label:
            code.append((label[1], ""))
        elif instruction:
            code.append((instruction[1], instruction[2]))
    return code, {name: int(number) for name, number in re.findall(r"\b(REG|STACK):(\d+)", usage)}


def leaves(values: Iterable[Any]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Values and their places, those in a NamedTuple one by one."""
    for i, value in enumerate(values):
        if isinstance(value, tuple):
            yield from (((i, j), part) for j, part in enumerate(value))
        else:
            yield (i,), value


def compile_for(case: dict[str, Any], arch: int) -> Any:
    """Compile one case."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = case["kernel"].arg_names
    signature = {name: case["signature"].get(name, "constexpr") for name in names}
    strangers = {*case["signature"], *case["constants"]} ^ set(names)
    if strangers:
        raise ValueError(f"case {case['name']!r} and its kernel differ in {', '.join(sorted(strangers))}")
    kinds = dict(leaves(signature[name] for name in names))
    values = dict(leaves(case["constants"].get(name, signature[name]) for name in names))
    aligned = {(names.index(name),) for name in case.get("aligned", ())}
    constants = {path: values[path] for path, kind in kinds.items() if kind == "constexpr"}
    pointers = {path for path, kind in kinds.items() if kind.startswith("*")}
    attributes = {path: [["tt.divisibility", 16]] for path in pointers | aligned}
    source = ASTSource(case["kernel"], signature, constants, attributes)
    return triton.compile(
        source, target=GPUTarget("cuda", arch, 32), options={"enable_fp_fusion": True, **case["options"]}
    )


def report(case: dict[str, Any], arch: int, made: Any) -> dict[str, Any]:
    """What became of one case."""
    code, usage = disassemble(made.asm["cubin"])
    opcodes = Counter(name for name, _ in code if not name.startswith(".L"))
    return {
        "name": case["name"],
        "constants": case["constants"],
        "arch": arch,
        "registers": usage["REG"],
        "stack": usage["STACK"],
        "shared": made.metadata.shared,
        "warps": made.metadata.num_warps,
        "dots": made.asm["ttir"].count("tt.dot "),
        "opcodes": opcodes,
        "main": Counter(main_loop(code)),
        "spills": count(opcodes, "LDL", "STL"),
    }


if __name__ == "__main__":
    cases = importlib.import_module(f"vqlabel.kernels.{sys.argv[1]}").compile_cases()
    # reading the code takes as long as making it, and is done by other processes meanwhile
    with ThreadPoolExecutor() as readers:
        found = [readers.submit(report, c, arch, compile_for(c, arch)) for c in cases for arch in ARCHITECTURES]
    json.dump([one.result() for one in found], sys.stdout, default=str)
