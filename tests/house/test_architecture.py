"""The house: which room may know of which, and what no file may hold."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support import ROOT

import linnet
from linnet.engine.cli.main import COMMANDS

ROOMS = ("kernels", "models", "engine")  # from the ground up
WINGS = {  # of each room, from the ground up: folders, and files that lie beside them
    "kernels": (
        "log", "memory", "macos", "ir", "isa", "quants", "compiler", "ops", "products", "runtime",
    ),
    "models": ("parts", "architectures"),
    "engine": (
        "machine", "checks", "extras", "json_schemas", "gguf", "text", "chat", "sampling",
        "running", "quantize", "measure", "open_model", "chat_request", "llm", "async_llm",
        "openai", "compat", "server", "batch", "cli",
    ),
}  # fmt: skip
MOST_LINES = 350


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """The full name of every module, and of every name taken from one, that a file imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def importers(module: str) -> set[str]:
    """The files of the package that import a module, or anything from it."""
    return {
        str(path.relative_to(ROOT))
        for path in sources(*ROOMS)
        if any(f"{name}.".startswith(f"{module}.") for name in imports(path))
    }


def name_of(path: Path) -> str:
    """What a file is imported as."""
    parts = ("linnet", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sources(*ROOMS)}


def module_of(name: str) -> str | None:
    """The module that is, or that holds, what is imported by this name; None for others' names."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def imported_modules(module: str) -> set[str]:
    """The package's modules that one imports: wherever, and be it for types alone."""
    found = {module_of(name) for name in imports(MODULES[module])}
    return {name for name in found if name} - {module}


def wing(module: str) -> tuple[str, str] | None:
    """The room and the wing in it; None for what only holds a room's names."""
    path = MODULES[module].relative_to(ROOT)
    room, *inner = path.parts
    if inner == ["__init__.py"]:
        return None
    if room == "models" and len(inner) == 1:
        return room, "architectures"
    return room, inner[0].removesuffix(".py")


def test_there_is_something_to_look_at() -> None:
    assert all(len(sources(room)) > 5 for room in ROOMS)
    assert "kernels/compiler/jit.py" in importers("llvmlite")


@pytest.mark.parametrize(("room", "above"), [("kernels", ROOMS[1:]), ("models", ROOMS[2:])])
def test_imports_go_down_only(room: str, above: tuple[str, ...]) -> None:
    for higher in above:
        climbers = importers(f"linnet.{higher}") & {str(p.relative_to(ROOT)) for p in sources(room)}
        assert not climbers


def test_there_is_no_circle_of_imports() -> None:
    """Nor a hidden one: imports within functions and for type checkers count. A CycleError says
    which it is."""
    TopologicalSorter({module: imported_modules(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("room", ROOMS)
def test_every_wing_has_its_place(room: str) -> None:
    found = {found[1] for module in MODULES if (found := wing(module)) and found[0] == room}
    assert found == set(WINGS[room])


@pytest.mark.parametrize("room", ROOMS)
def test_wings_import_what_lies_below_them(room: str) -> None:
    climbs = set()
    for module in MODULES:
        for target in imported_modules(module):
            one, other = wing(module), wing(target)
            if one and other and one[0] == other[0] == room:
                order = WINGS[room]
                if order.index(one[1]) < order.index(other[1]):
                    climbs.add((module, target))
    assert climbs == set()


def test_no_room_imports_the_public_face() -> None:
    """`linnet` itself holds names for users; the rooms import each other."""
    names = [name for path in sources(*ROOMS) for name in imports(path)]
    allowed = {f"linnet.{room}" for room in ROOMS} | {"linnet.__version__"}
    used = {".".join(name.split(".")[:2]) for name in names if name.split(".")[0] == "linnet"}
    assert used <= allowed
    assert not {name.split(".")[0] for name in names} & set(ROOMS)


def test_only_the_language_spells_llvm_ir() -> None:
    assert {Path(path).parts[:2] for path in importers("llvmlite.ir")} == {("kernels", "ir")}


def test_only_the_compiler_spells_llvms_binding() -> None:
    assert importers("llvmlite.binding") == {"kernels/compiler/jit.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_is_checked_by_assert(room: str) -> None:
    """Python drops assertions where it is told to optimise."""
    for path in sources(room):
        lines = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if type(node) is ast.Assert
        ]
        assert not lines, f"{path}: {lines}"


def test_no_file_is_too_long_to_read_at_once() -> None:
    paths = sources(*ROOMS) + sorted((ROOT / "linnet").glob("*.py"))
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in paths}
    assert {path: n for path, n in lengths.items() if n >= MOST_LINES} == {}


def test_the_package_holds_the_rooms_and_little_else() -> None:
    folder = ROOT / "linnet"
    assert Path(linnet.__file__).parent.resolve() == folder
    here = {path.name: path for path in folder.iterdir() if path.name != "__pycache__"}
    rooms = {room: here.pop(room) for room in ROOMS}
    files = {"__init__.py", "__main__.py", "batch.py", "compat.py", "py.typed"}
    assert {*here} == {*files, "server"}
    for room, path in rooms.items():  # a link, or the file that git writes instead
        named = path.readlink() if path.is_symlink() else Path(path.read_text())
        assert named == Path("..") / room


def test_a_checkout_without_links_is_as_good(tmp_path: Path) -> None:
    """As on Windows, where it takes a right to make some."""
    for folder in ("linnet", *ROOMS, "tests/support", "tests/text"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns(*ROOMS))
    for room in ROOMS:
        (tmp_path / "linnet" / room).write_text(f"../{room}")
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    code = "import linnet, linnet.engine as e; linnet.LLM; print(linnet.__version__, e.__file__)"
    for argv, expected in (
        (["-c", code], f"{linnet.__version__} {tmp_path / 'engine' / '__init__.py'}\n"),
        (["-m", "linnet", "--version"], f"linnet {linnet.__version__}\n"),
        (["-m", "linnet", "generate", "-q", "-n0", "x"], "x\n"),
        (["-m", "pytest", "--co", "-q", "tests/text"], ""),
    ):
        done = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(expected)


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_found_by_its_full_name_and_typed(room: str) -> None:
    module = importlib.import_module(f"linnet.{room}")
    assert Path(str(module.__file__)).resolve().parent == ROOT / room
    assert (ROOT / room / "py.typed").is_file()
    assert (ROOT / room / "__init__.py").is_file()


def imported_by(code: str) -> set[str]:
    """The modules that a new process has imported once it has run `code`."""
    code += "\nimport sys\nprint(*sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return set(subprocess.check_output([sys.executable, "-c", code], env=env, text=True).split())


def imported_by_command(imports: str, *argv: str, runs: bool) -> set[str]:
    """The same of these imports alone or, where it `runs`, of a command."""
    command = f"from linnet.engine.cli.main import main; main({list(argv)})"
    return imported_by(command if runs else imports)


def test_the_public_face_imports_nothing_before_it_is_asked_for() -> None:
    heavy = {"numpy", "llvmlite", "linnet.engine", "linnet.kernels", "linnet.models"}
    assert not imported_by("import linnet; linnet.__version__; dir(linnet)") & heavy
    assert "linnet.engine.llm" in imported_by("import linnet; linnet.LLM")


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["nonsense"], []], ids=" ".join)
def test_what_runs_no_command_imports_none(argv: list[str]) -> None:
    imported = imported_by_command("", *argv, runs=True)
    assert "linnet.engine.cli.main" in imported
    commands = {f"linnet.engine.cli.{name}" for name in COMMANDS}
    assert not imported & {"numpy", "llvmlite", "jinja2", "tqdm", *commands}


@pytest.mark.parametrize("runs", [False, True], ids=["imported", "run"])
def test_generating_imports_no_more_than_it_uses(runs: bool) -> None:
    """The packages that only `quantize` takes cost as much time as all the rest."""
    imports = "from linnet.engine.cli import generate"
    imported = imported_by_command(imports, "generate", "-q", "-n1", "x", runs=runs)
    assert "linnet.engine.llm" in imported
    unused = {"gguf", "requests", "yaml", "tqdm", "logging", "concurrent.futures"}
    assert not imported & {*unused, "linnet.engine.quantize.quantize"}
    assert ("sentencepiece" in imported) == runs


def test_only_a_terminal_imports_the_prompt_of_chat() -> None:
    imported = imported_by("from linnet.engine.cli import chat")
    assert "linnet.engine.cli.repl.commands" in imported
    assert not imported & {"prompt_toolkit", "tqdm", "asyncio"}


@pytest.mark.parametrize("runs", [False, True], ids=["imported", "run"])
def test_tokenizing_takes_no_compiler(runs: bool) -> None:
    """Its import would take a quarter of the time."""
    model = str(ROOT / "models/demo/demo-Q4_K_M.gguf")
    imports = "from linnet import Tokenizer"
    imported = imported_by_command(imports, "tokenize", "-m", model, "-p", "x", runs=runs)
    assert ("sentencepiece" in imported) == runs
    assert "linnet.engine.text.bpe" in imported
    assert "llvmlite" not in imported


def test_every_public_name_is_there() -> None:
    classes = set(linnet.__all__) - {"Progress"}
    assert all(getattr(linnet, name).__name__ == name for name in classes)
    assert set(linnet.__all__) <= set(dir(linnet))
    with pytest.raises(AttributeError, match="nonsense"):
        linnet.nonsense  # noqa: B018
    with pytest.raises(ImportError, match=r"from linnet\.compat import Llama"):
        from linnet import Llama  # noqa: F401
    assert linnet.__version__.count(".") == 2
    assert len(linnet.__all__) == len(set(linnet.__all__))
    for name in linnet.__all__:
        assert getattr(linnet, name) is not None


@pytest.mark.parametrize("name", ["LLM", "SamplingParams", "Output", "Chunk", "Stats"])
def test_help_says_what_every_argument_is(name: str) -> None:
    public = getattr(linnet, name)
    for argument in inspect.signature(public).parameters:
        assert f"`{argument}`" in public.__doc__
