"""Settings from the environment: a bad value stops the start with a sentence."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.wire.messages import TRANSFERS_AT_ONCE
from silentmode.settings import BASE_DIR, _secret_key


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """An empty directory."""
    directory = tmp_path / "fresh"
    directory.mkdir()
    return directory


def run(*arguments: str, data_dir: Path, **environment: str) -> "subprocess.Popen[str]":
    """A Python of its own, with nothing in its environment but what is said here."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("COV")}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=BASE_DIR,
        env=kept | {"SILENTMODE_DATA_DIR": str(data_dir)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def check(data_dir: Path, **environment: str) -> tuple[int, str]:
    """`manage.py check`: its exit code and what it says."""
    code, out, err = finished(run("manage.py", "check", data_dir=data_dir, **environment))
    return code, out + err


def setting(name: str, data_dir: Path, **environment: str) -> Any:
    script = f"import json; from silentmode import settings; print(json.dumps(settings.{name}))"
    code, out, err = finished(run("-c", script, data_dir=data_dir, **environment))
    assert code == 0, err
    return json.loads(out)


def test_on_a_fresh_machine_nothing_needs_to_be_set(fresh: Path) -> None:
    data_dir = fresh / "var/silentmode"
    assert check(data_dir)[0] == 0
    assert {path.name for path in data_dir.iterdir()} == {"secret_key", "partial", "downloads"}
    for directory in (data_dir, data_dir / "partial", data_dir / "downloads"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert setting("DEBUG", data_dir) is False
    assert "*" not in setting("ALLOWED_HOSTS", data_dir)


def test_no_client_is_asked_for_more_at_once_than_its_agent_takes(fresh: Path) -> None:
    assert setting("MAX_ACTIVE_PER_CLIENT", fresh) == TRANSFERS_AT_ONCE
    more = str(TRANSFERS_AT_ONCE + 1)
    assert check(fresh, SILENTMODE_MAX_ACTIVE_PER_CLIENT=more)[0] != 0


BAD = {
    "DEBUG": "maybe",
    "TLS": "maybe",
    "TLS ": "true",
    "TRUSTED_PROXIES": "proxy.example.com",
    "TRUSTED_PROXIES ": "10.0.0.1/8",
    "BEHIND_TLS": "true",
    "LOG_FORMAT": "xml",
    "MAX_FILE_SIZE": "lots",
    "MAX_FILE_SIZE ": "0",
    "MAX_FILE_SIZE  ": str(2**63),
    "MAX_CHUNK": str(64 * 1024 - 1),
    "MAX_CHUNK ": str(512 * 1024 + 1),
    "WINDOW": "5",
    "WINDOW ": "8M",
    "WORKERS": "0",
    "WORKERS ": "2",
    "LOG_LEVEL": "LOUD",
    "WEBSOCKET_MAX_MESSAGE_SIZE": "big",
    "WEBSOCKET_MAX_MESSAGE_SIZE ": "1000",
    "CSRF_TRUSTED_ORIGINS": "silentmode.example",
}


@pytest.mark.parametrize(("name", "value"), BAD.items(), ids=[f"{k}={v}" for k, v in BAD.items()])
def test_a_bad_value_stops_the_start_with_its_name(fresh: Path, name: str, value: str) -> None:
    code, said = check(fresh, **{f"SILENTMODE_{name.strip()}": value})
    assert code != 0
    assert name.strip() in said


@pytest.mark.parametrize("url", ["nonsense", "oracle9://x", "postgres://h:port/d", "mysql//x"])
def test_a_bad_database_url_stops_the_start_with_its_name(fresh: Path, url: str) -> None:
    code, said = check(fresh, DATABASE_URL=url)
    assert code != 0
    assert "DATABASE_URL" in said


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis", "Redis:6379"])
def test_a_bad_redis_url_stops_the_start_with_its_name(fresh: Path, url: str) -> None:
    code, said = check(fresh, REDIS_URL=url)
    assert code != 0
    assert "REDIS_URL" in said


def test_a_data_directory_that_cannot_be_made_stops_the_start_with_what_to_do(
    fresh: Path,
) -> None:
    (fresh / "file").touch()
    code, said = check(fresh / "file")
    assert code != 0
    assert "Set SILENTMODE_DATA_DIR to" in said


def test_an_empty_data_directory_is_not_the_current_one(fresh: Path) -> None:
    """`SILENTMODE_DATA_DIR=` is what a compose file makes of a variable that is not set."""
    project = (
        fresh.parent / "project"
    )  # a copy, so that it is not the checkout's `var` that is made
    (project / "silentmode").mkdir(parents=True)
    shutil.copy(BASE_DIR / "silentmode/settings.py", project / "silentmode")
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); os.chdir(sys.argv[2])\n"
        "from silentmode import settings; print(settings.DATA_DIR)"
    )
    code, out, err = finished(
        run("-c", script, str(project), str(fresh), data_dir=Path(), SILENTMODE_DATA_DIR="")
    )
    assert code == 0, err
    assert out == f"{project / 'var'}\n"
    assert not list(fresh.iterdir())
    assert (project / "var/partial").is_dir()


def test_what_the_server_writes_is_its_users_alone(fresh: Path) -> None:
    script = "import sys; from silentmode import settings; open(sys.argv[1], 'w').close()"
    code, _, err = finished(run("-c", script, str(fresh / "file"), data_dir=fresh / "data"))
    assert code == 0, err
    assert stat.S_IMODE((fresh / "file").stat().st_mode) == 0o600
    assert finished(run("manage.py", "migrate", data_dir=fresh / "data"))[0] == 0
    assert stat.S_IMODE((fresh / "data/db.sqlite3").stat().st_mode) == 0o600


def test_a_server_without_tables_says_what_to_do_in_a_sentence(fresh: Path) -> None:
    code, _, err = finished(run("-c", "import silentmode.asgi", data_dir=fresh))
    assert code == 1
    assert err.startswith("silentmode cannot start: The database is not ready")
    assert "manage.py migrate" in err
    assert "Traceback" not in err


def test_a_server_that_cannot_start_says_why_in_a_sentence(fresh: Path) -> None:
    code, _, err = finished(
        run("-c", "import silentmode.asgi", data_dir=fresh, SILENTMODE_WORKERS="2")
    )
    assert code != 0
    assert "REDIS_URL" in err
    assert "Traceback" not in err


def test_a_server_with_a_bad_value_says_why_in_a_sentence(fresh: Path) -> None:
    code, _, err = finished(
        run("-c", "import silentmode.asgi", data_dir=fresh, SILENTMODE_WORKERS="many")
    )
    assert code != 0
    assert err.startswith("silentmode cannot start: ")
    assert "WORKERS" in err
    assert "Traceback" not in err


# The database ------------------------------------------------------------------------------------


def test_postgresql_gets_a_pool(fresh: Path) -> None:
    url = "postgres://user:secret@db.example:5433/silentmode"
    database = setting("DATABASES", fresh, DATABASE_URL=url)["default"]
    assert database["ENGINE"] == "django.db.backends.postgresql"
    assert database["OPTIONS"]["pool"] == {"min_size": 4, "max_size": 16}
    assert database["CONN_MAX_AGE"] == 0, "Django refuses a pool beside persistent connections"
    assert (database["HOST"], database["PORT"], database["NAME"]) == (
        "db.example", 5433, "silentmode",
    )  # fmt: skip


def test_redis_replaces_the_in_memory_layer(fresh: Path) -> None:
    layer = setting("CHANNEL_LAYERS", fresh, REDIS_URL="redis://r:6379/1")["default"]
    assert layer["BACKEND"] == "channels_redis.core.RedisChannelLayer"
    hosts = [{"address": "redis://r:6379/1", "socket_timeout": 30}]
    assert layer["CONFIG"] == {"hosts": hosts, "capacity": 10_000}
    assert check(fresh, REDIS_URL="redis://r:6379/1", SILENTMODE_WORKERS="4")[0] == 0


# TLS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["proxy", "own"])
def test_behind_tls_cookies_and_pages_are_for_tls_only(fresh: Path, tls: str) -> None:
    for name in ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT"):
        assert setting(name, fresh, SILENTMODE_TLS=tls) is True
    for name in ("SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME"):
        assert setting(name, fresh, SILENTMODE_TLS=tls).startswith("__Host-")


def test_only_a_proxy_is_believed_about_tls(fresh: Path) -> None:
    """Else whoever asks could say that it was."""
    name = "SECURE_PROXY_SSL_HEADER"
    assert setting(name, fresh, SILENTMODE_TLS="proxy") == ["HTTP_X_FORWARDED_PROTO", "https"]
    script = f"from silentmode import settings; print(hasattr(settings, {name!r}))"
    for tls in ("own", "off"):
        assert finished(run("-c", script, data_dir=fresh, SILENTMODE_TLS=tls))[1] == "False\n"


@pytest.mark.parametrize("tls", ["proxy", "own"])
def test_the_settings_of_production_leave_nothing_to_warn_of(fresh: Path, tls: str) -> None:
    process = run(
        "manage.py", "check", "--deploy", "--fail-level", "WARNING",
        data_dir=fresh, SILENTMODE_TLS=tls, SILENTMODE_ALLOWED_HOSTS="files.example.com",
    )  # fmt: skip
    code, out, err = finished(process)
    assert (code, err) == (0, "")
    assert out.startswith("System check identified no issues")


def test_without_tls_the_check_of_a_deployment_warns(fresh: Path) -> None:
    process = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", data_dir=fresh)
    code, _, err = finished(process)
    assert code == 1
    assert "security.W012" in err


def test_behind_tls_a_monitor_asks_for_the_health_without_it(fresh: Path) -> None:
    script = """
import django
django.setup()
from django.middleware.security import SecurityMiddleware
from django.test import RequestFactory
redirected = SecurityMiddleware(lambda request: None).process_request
for path in ("/healthz", "/healthz/x", "/x/healthz", "/admin/"):
    print(path, bool(redirected(RequestFactory(SERVER_NAME="localhost").get(path))))
"""
    environment = {"DJANGO_SETTINGS_MODULE": "silentmode.settings", "SILENTMODE_TLS": "proxy"}
    code, out, err = finished(run("-c", script, data_dir=fresh, **environment))
    assert code == 0, err
    assert out.splitlines() == [
        "/healthz False", "/healthz/x True", "/x/healthz True", "/admin/ True",
    ]  # fmt: skip


# The secret key ----------------------------------------------------------------------------------


def test_a_secret_key_is_made_on_first_start_and_kept(fresh: Path) -> None:
    first = setting("SECRET_KEY", fresh)
    kept = fresh / "secret_key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() == first
    assert len(first) >= 64
    assert setting("SECRET_KEY", fresh) == first


def test_a_secret_key_that_is_set_is_used_and_not_written(fresh: Path) -> None:
    assert setting("SECRET_KEY", fresh, SILENTMODE_SECRET_KEY="$mine") == "$mine"
    assert not (fresh / "secret_key").exists()


def test_two_first_starts_at_once_agree_on_one_key(fresh: Path) -> None:
    script = "from silentmode.settings import SECRET_KEY; print(SECRET_KEY)"
    starts = [finished(each) for each in [run("-c", script, data_dir=fresh) for _ in range(4)]]
    assert {code for code, _, _ in starts} == {0}
    assert len({out for _, out, _ in starts}) == 1
    assert [path.name for path in fresh.iterdir() if path.is_file()] == ["secret_key"]


def test_many_first_starts_at_the_same_moment_agree_on_one_key(fresh: Path) -> None:
    barrier = threading.Barrier(16)
    keys = []

    def start() -> None:
        barrier.wait()
        keys.append(_secret_key(fresh / "secret_key"))

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 16
    assert set(keys) == {(fresh / "secret_key").read_text()}
    assert [path.name for path in fresh.iterdir()] == ["secret_key"]


def test_whoever_comes_second_takes_the_firsts_key(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between looking and linking, made certain."""
    path = fresh / "secret_key"
    hardlink_to = Path.hardlink_to

    def second(self: Path, target: Path) -> None:
        path.write_text("the first's")
        hardlink_to(self, target)

    monkeypatch.setattr(Path, "hardlink_to", second)
    assert _secret_key(path) == "the first's"
    assert [each.name for each in fresh.iterdir()] == ["secret_key"]
