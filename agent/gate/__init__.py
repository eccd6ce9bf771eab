"""The one way out: what may be read here, and how it is opened so that nothing else can be.

`gate` is the door. `policy` says what may pass, from the `policy_file` with its `globs`; `never` and
`own_files` say what never does. `opening` (with `kernel`) and `windows` (with `windows_names`) open it;
`source` is the file, once open.
"""

from .gate import Gate, Visit

__all__ = ["Gate", "Visit"]
