"""The house: imports point one way, and the documents name what the code offers."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import transfers
from agent.wire.errors import ERRORS

BASE = Path(__file__).resolve().parent.parent
SERVER_SIDE = ("django", "channels", "rest_framework", "daphne", "silentmode", "transfers")


def modules(package: str) -> list[str]:
    """The files of a package, for parametrize."""
    return sorted(str(path.relative_to(BASE)) for path in (BASE / package).rglob("*.py"))


def imported(file: str) -> set[str]:
    """The full dotted name of everything that a file imports, wherever in it."""
    return set(_imported(BASE / file))


def _imported(path: Path) -> Iterator[str]:
    package = path.relative_to(BASE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def test_relative_imports_are_seen_as_what_they_are() -> None:
    assert "agent.wire.errors.ERRORS" in imported("agent/wire/messages.py")
    assert "agent.wire.errors.CloseCode" in imported("agent/link.py")
    assert "agent.__version__" in imported("agent/cli.py")


def test_every_room_of_the_server_is_on_its_map() -> None:
    there = {
        path.stem
        for path in (BASE / "transfers").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    named = set(re.findall(r"`(\w+)`", transfers.__doc__ or ""))
    assert there - {"__init__"} - named == {"migrations", "templatetags"}
    assert named <= there


@pytest.mark.parametrize("file", modules("agent/wire"))
def test_the_wire_imports_only_itself_and_the_standard_library(file: str) -> None:
    for name in imported(file):
        top = name.partition(".")[0]
        assert within(name, "agent.wire") or top in sys.stdlib_module_names, name


@pytest.mark.parametrize("file", modules("agent/wire"))
def test_the_wire_does_no_input_or_output_and_knows_no_clock(file: str) -> None:
    for name in imported(file):
        assert not within(name, "asyncio", "socket", "os", "pathlib", "time", "threading", "io")


@pytest.mark.parametrize("file", modules("agent"))
def test_the_agent_knows_nothing_of_the_server(file: str) -> None:
    for name in imported(file):
        assert not within(name, *SERVER_SIDE), name


@pytest.mark.parametrize("file", modules("transfers"))
def test_the_server_takes_only_the_wire_from_the_agent(file: str) -> None:
    for name in imported(file):
        assert not within(name, "agent") or within(name, "agent.wire"), name
        assert not within(name, "silentmode", "tests"), name


@pytest.mark.parametrize("file", modules("silentmode"))
def test_the_project_is_wiring_and_reaches_the_agent_only_through_the_server(file: str) -> None:
    for name in imported(file):
        assert not within(name, "agent", "tests"), name


@pytest.mark.parametrize("module", ["agent.cli", "agent.wire.session"])
def test_importing_the_agent_does_not_load_the_server(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BASE,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()
    assert "agent" in loaded
    assert not {"django", "channels", "transfers", "silentmode"} & set(loaded)


# The documents

COMMANDS = [
    "make demo",
    "make test",
    "make run",
    "make bench",
    "daphne silentmode.asgi:application",
    "python -m agent",
    "DEMO_SIZE_MB",
    "SILENTMODE_TOKEN",
    "--token-file",
    "--root",
    "--ca-file",
    "--pin",
    "--allow-insecure",
    "--policy",
    "--state",
    "--limit-rate",
    "--normal-priority",
    "check-policy",
    "SILENTMODE_STATE_DIR",
    *(
        f"manage.py {path.stem}"
        for path in sorted((BASE / "transfers/management/commands").glob("[a-z]*.py"))
    ),
]


def settings() -> list[str]:
    """The environment variables that the settings read, by their full names."""
    tree = ast.parse((BASE / "silentmode/settings.py").read_text(encoding="utf-8"))
    prefixed = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "prefixed" in ast.dump(node.items[0])
    ]
    inside = {name for node in prefixed for name in _read_from_environment(node)}
    return sorted(f"SILENTMODE_{name}" for name in inside) + sorted(
        set(_read_from_environment(tree)) - inside
    )


def _read_from_environment(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="env"), attr=kind),
                args=[ast.Constant(value=str(name)), *_],
            ) if kind != "prefixed":
                yield name


def test_the_settings_are_found() -> None:
    assert {"SILENTMODE_DATA_DIR", "SILENTMODE_SECRET_KEY", "REDIS_URL"} <= set(settings())


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_code_is_in_the_description_of_the_protocol(code: str) -> None:
    assert f"`{code}`" in (BASE / "docs/protocol.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*COMMANDS, *settings()])
def test_every_command_and_setting_is_in_the_readme(name: str) -> None:
    assert name in (BASE / "README.md").read_text(encoding="utf-8")
