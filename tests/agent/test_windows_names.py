"""Names of Windows that look like a file and lead elsewhere; judged anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gate.windows_names import DEVICES, odd_name


@pytest.mark.parametrize(
    "path",
    [
        r"\\host\share\x", "//host/share/x", r"\\?\C:\x", r"\\.\PhysicalDrive0", r"\\.\pipe\x", r"\/host\x",
        r"\\?\UNC\host\share\x", r"\\?\GLOBALROOT\Device\x", "C:x", "C:", "c:..\\x",
    ],
)  # fmt: skip
def test_network_device_and_drive_relative_paths_are_odd(path: str) -> None:
    assert odd_name(path)


@pytest.mark.parametrize(
    "name",
    ["CON", "nul", "Aux.txt", "prn.tar.gz", "COM1", "com\N{SUPERSCRIPT TWO}.log", "LPT9", "CONIN$",
     "nul .txt", "NUL  ", "CLOCK$"],
)  # fmt: skip
def test_names_of_devices_are_odd_in_every_folder(name: str) -> None:
    assert odd_name(name)
    assert odd_name(rf"C:\logs\{name}")
    assert odd_name(f"logs/{name}/x")


@pytest.mark.parametrize(
    "path",
    ["x.log:stream", "x.log::$DATA", r"C:\a:b\x", "x.", "x ", "a./b", "a /b", "x...", "a\x00b", "a\x1fb",
     'a"b', "a<b", "a|b", "a?b", "a*b"],
)  # fmt: skip
def test_streams_and_names_that_windows_changes_are_odd(path: str) -> None:
    assert odd_name(path)


@pytest.mark.parametrize(
    "path",
    [r"C:\logs\pos.log", "C:/logs/pos.log", "logs/pos.log", r".\logs\pos.log", "console.log", "com10.txt",
     "nullable", "auxiliary", "a b.txt", ".hidden", "comx", "com0"],
)  # fmt: skip
def test_ordinary_names_are_not(path: str) -> None:
    assert odd_name(path) is None


@given(st.sampled_from(sorted(DEVICES)), st.text("abc. ", max_size=5), st.booleans())
def test_no_spelling_of_a_device_is_ordinary(device: str, more: str, upper: bool) -> None:
    name = device.upper() if upper else device
    assert odd_name(f"logs\\{name}.{more}")
    assert odd_name(f"logs\\{name} {'.' + more if more else ''}")
