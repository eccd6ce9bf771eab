"""Names that look like a file on Windows and lead elsewhere; judged without Windows, so anywhere."""

from pathlib import PureWindowsPath

_PORTS = "123456789\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}\N{SUPERSCRIPT THREE}"
DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in _PORTS]
)
"""Names of devices in every folder, whatever the extension (Microsoft, "Naming Files, Paths")."""


def odd_name(path: str) -> str | None:
    """Why a path may mean something else than a file of this name, or None."""
    anchor = PureWindowsPath(path).drive
    if path.replace("/", "\\").startswith("\\\\"):
        return "a network or device path"
    if len(anchor) == 2 and not PureWindowsPath(path).root:
        return "relative to the current folder of a drive"
    for name in path[len(anchor) :].replace("/", "\\").split("\\"):
        if reason := _odd_component(name):
            return reason
    return None


def _odd_component(name: str) -> str | None:
    if name in ("", "."):
        return None
    if ":" in name:
        return "an alternate data stream"
    if name[-1] in ". ":
        return "a name that Windows shortens"
    if any(letter in '<>"|?*' or letter < " " for letter in name):
        return "a name that Windows does not allow"
    stem = name.partition(".")[0].rstrip(" ").lower()
    return "the name of a device" if stem in DEVICES else None
