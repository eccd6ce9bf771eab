"""What is never sent, whatever a policy allows: by its path, by its content, by its file system.

Names are matched anywhere in the real path, without regard to case, and what matches a folder covers
all that is in it. The lists err on the side of keeping: a public certificate in a `.pem` stays, too.
"""

import functools
import re

from .globs import Glob

SYSTEM = (
    "proc", "sys", "dev", "run/secrets", "run/credentials", "run/user/*/keyring", "boot/efi/loader/keys",
    "var/run/secrets",
)  # fmt: skip
"""The kernel's own windows, which look like files, and where secrets are handed to services."""

KEYS = (
    "**/.ssh", "**/.gnupg", "**/private-keys-v1.d", "**/ssl/private", "**/pki/tls/private",
    "**/id_rsa*", "**/id_dsa*", "**/id_ecdsa*", "**/id_ed25519*", "**/ssh_host_*_key", "**/identity.age",
    "**/*.pem", "**/*.key", "**/*.pfx", "**/*.p12", "**/*.p8", "**/*.pkcs12", "**/*.ppk",
    "**/*.jks", "**/*.keystore", "**/*.bcfks", "**/*.kdb", "**/*.kdbx", "**/*.keytab",
    "**/*.keychain", "**/*.keychain-db", "**/Library/Keychains",
)  # fmt: skip
"""Private keys, and the stores that hold them."""

CREDENTIALS = (
    "**/etc/shadow*", "**/etc/gshadow*", "**/etc/security/opasswd*", "**/etc/sudoers*",
    "**/system32/config", "**/windows/repair", "**/ntds.dit", "**/ntuser.dat*", "**/sam.save",
    "**/Microsoft/Protect", "**/Microsoft/Crypto", "**/Microsoft/Credentials", "**/Microsoft/Vault",
    "**/.netrc", "**/_netrc", "**/.pgpass", "**/pgpass.conf", "**/.my.cnf", "**/.mylogin.cnf",
    "**/.git-credentials", "**/.npmrc", "**/.pypirc", "**/.htpasswd", "**/.env", "**/.env.*",
    "**/.aws", "**/.azure", "**/.config/gcloud", "**/.kube", "**/.docker/config.json",
    "**/.vault-token", "**/wallet.dat",
    "**/Login Data", "**/logins.json", "**/key3.db", "**/key4.db", "**/cookies.sqlite",
)  # fmt: skip
"""Passwords and their hashes, tokens of other programs, hives of the Windows registry."""

_LISTS = {
    "the system's own": tuple(Glob.parse(text, any_case=True) for text in SYSTEM),
    "private keys": tuple(Glob.parse(text, any_case=True) for text in KEYS),
    "credentials": tuple(Glob.parse(text, any_case=True) for text in CREDENTIALS),
}

HEAD = 16 * 1024
"""Bytes that are looked at for a key: room for a chain of certificates before it."""

_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-|AGE-SECRET-KEY-1"
)
_STORES = {
    b"\xfe\xed\xfe\xed": "a Java key store",
    b"\xce\xce\xce\xce": "a Java key store",
    b"\x03\xd9\xa2\x9a": "a KeePass database",
}

FILE_SYSTEMS = {
    0x9FA0: "proc", 0x62656572: "sysfs", 0x1CD1: "devpts", 0x27E0EB: "cgroup", 0x63677270: "cgroup2",
    0x64626720: "debugfs", 0x74726163: "tracefs", 0x73636673: "securityfs", 0xF97CFF8C: "selinuxfs",
    0x43415D53: "smackfs", 0xCAFE4A11: "bpf", 0x62656570: "configfs", 0x6165676C: "pstore",
    0xDE5E81E4: "efivarfs", 0x6E736673: "nsfs", 0x19800202: "mqueue", 0x50495045: "pipefs",
    0x534F434B: "sockfs", 0x09041934: "anon_inodefs", 0x5345434D: "secretmem", 0x42494E4D: "binfmt_misc",
    0x65735543: "fusectl", 0x67596969: "rpc_pipefs", 0xABBA1974: "xenfs", 0x6E667364: "nfsd",
    0x9FA1: "openprom",
}  # fmt: skip
"""`f_type` of pseudo file systems (linux/magic.h): what they show is made at the moment of reading."""


@functools.lru_cache(maxsize=256)
def by_path(parts: tuple[str, ...]) -> str | None:
    """Why a path may never be sent, or None. `parts` are its components below the root directory."""
    for kind, globs in _LISTS.items():
        for glob in globs:
            if glob.covers(parts):
                return f"built-in list: {kind} ({glob.text})"
    return None


def by_content(head: bytes) -> str | None:
    """Why a file that begins so may never be sent, or None."""
    for magic, kind in _STORES.items():
        if head.startswith(magic):
            return f"built-in list: it is {kind}"
    if _KEY.search(head.replace(b"\0", b"")):  # without NUL: a key in UTF-16 is a key
        return "built-in list: there is a private key in it"
    return None


def by_file_system(kind: int | None) -> str | None:
    """Why nothing of such a file system may be sent, or None. `kind` is Linux' `f_type`."""
    name = FILE_SYSTEMS.get(kind) if kind is not None else None
    return f"built-in list: the system's own (it is on {name})" if name else None
