"""Who may import whom: downwards only, nothing sideways, no circles, as the tree is drawn.

A walk over the syntax trees of `vidwm` and `vidwm_kernels`; nothing is imported or run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the top floor down; rooms on the same floor do not know each other.
FLOORS = [
    {"cli", "vidwm"},  # cli reads the version from the package's own __init__
    {"estimate"},
    {"hub", "training"},
    {"evaluation"},
    {"rollout", "reward"},
    {"world_model"},
    {"tokenizer"},
    {"data"},
    {"config_loader"},
    {"finetune_config"},
    {"config"},
    {"adapt_config", "lora_config"},
    {"data_config", "hub_config"},
    {"options"},
    {"files", "provenance", "device", "gradient_checkpointing"},
    {"errors"},
    {"vidwm_kernels"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Inside the floors: the modules of their room that know the tokenizer.
MEETING_POINTS = ("vidwm.world_model.codec", "vidwm.world_model.world_model")
# Packages that may be absent, so that they are imported where they are needed.
OPTIONAL = {
    "decord",
    "torchcodec",
    "huggingface_hub",
    "metaworld",
    "mujoco",
    "peft",
    "transformers",
}


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module of the two packages under `root`."""
    found = {}
    for package in (root / "vidwm", root / "kernels" / "vidwm_kernels"):
        for file in sorted(package.rglob("*.py")):
            parts = file.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room(module: str) -> str:
    """The floor plan's name of a module: vidwm.data.clip -> data, vidwm_kernels.x -> itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "vidwm" and len(parts) > 1 else parts[0]


def imports(tree: ast.Module, known: dict[str, Path]) -> Iterator[tuple[str, int, bool]]:
    """(imported module, line, inside a function?) of every import statement; "." if relative."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." if node.level else str(node.module)
            full = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if name in known else base for name in full]
        else:
            continue
        for target in targets:
            yield target, node.lineno, id(node) in inside


def violations(root: Path) -> list[str]:
    """Every breach of the rules under `root`, as `module:line: what`."""
    known = modules(root)
    found = []
    edges: dict[str, set[str]] = {name: set() for name in known}
    for name, file in known.items():
        if not (file.parent / "__init__.py").exists():
            found.append(f"{name}:1: its folder has no __init__.py, so it is not installed")
        if room(name) not in FLOOR:
            found.append(f"{name}:1: has no floor; give {room(name)} one in FLOORS")
            continue
        for target, line, in_function in imports(ast.parse(file.read_text()), known):
            where = f"{name}:{line}:"
            top = target.split(".")[0]
            own = top in ("vidwm", "vidwm_kernels")
            if target.startswith("."):
                found.append(f"{where} relative import")
            if top == "triton" and not file.name.startswith("fused"):
                found.append(f"{where} triton outside of fused*.py")
            if in_function and name != "vidwm.cli" and (own or top not in OPTIONAL):
                found.append(f"{where} import of {target} inside a function")
            if not own:
                continue
            edges[name].add(target)
            here, there = FLOOR[room(name)], FLOOR.get(room(target), -1)
            if there < here:
                found.append(f"{where} upward import of {target}")
            elif there == here and room(name) != room(target) and target != "vidwm":
                found.append(f"{where} sideways import of {target}")
            rooms = (room(name), room(target))
            if rooms == ("world_model", "tokenizer") and name not in MEETING_POINTS:
                found.append(f"{where} only {' and '.join(MEETING_POINTS)} may know the tokenizer")
    return found + [f"{' -> '.join(circle)}: circle" for circle in circles(edges)]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """One path for each way back to a module that is still being walked."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(edges.get(name, ())):
                walk(target, [*path, name])
            done.add(name)

    for name in edges:
        walk(name, [])
    return found


def test_the_house_keeps_its_rules() -> None:
    assert len(modules(ROOT)) > 20
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source", "breach"),
    [
        ("vidwm/data/a.py", "from vidwm.tokenizer import b", "upward import of vidwm.tokenizer.b"),
        ("vidwm/data/a.py", "from vidwm import WorldModel", "upward import of vidwm"),
        ("vidwm/errors.py", "import vidwm.config", "upward import of vidwm.config"),
        ("vidwm/reward/a.py", "import vidwm.rollout.engine", "sideways import of vidwm.rollout"),
        (
            "vidwm/hub/export.py",
            "from vidwm.training import loop",
            "sideways import of vidwm.training",
        ),
        ("vidwm/cellar.py", "", "has no floor"),
        ("vidwm/data/a.py", "from . import clip", "relative import"),
        ("vidwm/data/a.py", "def f():\n    import numpy", "inside a function"),
        ("vidwm/data/a.py", "import triton", "triton outside"),
        ("vidwm/world_model/layout.py", "import vidwm.tokenizer.b", "may know the tokenizer"),
        ("vidwm/data/a.py", "import vidwm.data.a", "circle"),
        ("vidwm/cupboard/a.py", "", "no __init__.py"),
        ("kernels/vidwm_kernels/a.py", "import vidwm.errors", "upward import of vidwm.errors"),
    ],
)
def test_a_planted_breach_is_caught(tmp_path: Path, file: str, source: str, breach: str) -> None:
    plant(tmp_path, "vidwm/tokenizer/b.py", "")
    plant(tmp_path, file, source, package="cupboard" not in file)
    assert any(breach in line for line in violations(tmp_path)), violations(tmp_path)


def test_what_is_allowed_is_not_a_breach(tmp_path: Path) -> None:
    plant(tmp_path, "kernels/vidwm_kernels/op/fused.py", "import triton")
    plant(
        tmp_path, "vidwm/cli.py", "from vidwm import __version__\ndef f():\n    import vidwm.data"
    )
    plant(tmp_path, "vidwm/data/a.py", "from vidwm.data import b\ndef f():\n    import decord")
    plant(tmp_path, "vidwm/data/b.py", "import torch\nimport vidwm_kernels.op")
    plant(tmp_path, "vidwm/training/a.py", "from vidwm.evaluation import report")
    assert violations(tmp_path) == []


def test_a_circle_of_two_is_caught(tmp_path: Path) -> None:
    plant(tmp_path, "vidwm/data/a.py", "import vidwm.data.b")
    plant(tmp_path, "vidwm/data/b.py", "from vidwm.data import a")
    assert violations(tmp_path) == ["vidwm.data.a -> vidwm.data.b -> vidwm.data.a: circle"]


def plant(root: Path, file: str, source: str, *, package: bool = True) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path.parent, root / "vidwm"):
        if package and folder.name != "kernels":
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
    path.write_text(source)
