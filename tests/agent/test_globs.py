"""Patterns: what they mean, and that no pattern takes long."""

import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gate.globs import MAX_GLOB, BadGlob, Glob


def matches(pattern: str, path: str, *, any_case: bool = False) -> bool:
    return Glob.parse(pattern, any_case=any_case).matches(path.split("/"))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.log", "a.log"),
        ("*", "a"), ("*", ".hidden"), ("*.log", ".log"), ("a*b*c", "a__b__b_c"), ("a*", "a"),
        ("?", "x"), ("a?c", "abc"), ("**", "a"), ("**", "a/b/c"), ("**/x", "x"), ("**/x", "a/b/x"),
        ("a/**", "a"), ("a/**", "a/b/c"), ("a/**/z", "a/z"), ("a/**/z", "a/b/c/z"),
        ("**/a/**/b/**", "x/a/y/b/z"), ("*/*.log", "a/b.log"), ("[abc]", "b"), ("[a-c]", "c"),
        ("[!a-c]", "d"), ("[]]", "]"), ("[!]]", "x"), ("[*]", "*"), ("[a-]", "-"), ("[[]", "["),
        ("\\*", "\\x"), ("é", "é"), ("a\nb", "a\nb"),
    ],
)  # fmt: skip
def test_it_matches(pattern: str, path: str) -> None:
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.log", "A.log"), ("a.log", "a.logx"), ("a.log", "xa.log"), ("*", "a/b"), ("*.log", "a/b.log"),
        ("a*", "ba"), ("?", ""), ("?", "xy"), ("**/x", "x/y"), ("a/**", "b/a"), ("a/**/z", "a/b"),
        ("[abc]", "d"), ("[!a-c]", "b"), ("[*]", "x"), ("a/b", "a"), ("a", "a/b"), ("a.c", "abc"),
    ],
)  # fmt: skip
def test_it_does_not_match(pattern: str, path: str) -> None:
    assert not matches(pattern, path)


@pytest.mark.parametrize(
    "pattern",
    ["", "/a", "a/", "a//b", "./a", "a/../b", "..", "a**", "**a", "***", "[a", "[", "[]", "[!]",
     "[z-a]", "x" * (MAX_GLOB + 1)],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(pattern: str) -> None:
    with pytest.raises(BadGlob):
        Glob.parse(pattern)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [("SECRET*", "secret.txt"), ("secret*", "SeCrEt.TXT"), ("[a-c]x", "BX"), ("[A-C]x", "bx"),
     ("straße", "STRAßE"), ("É", "e\u0301"), ("e\u0301*", "é.log"), ("K", "\N{KELVIN SIGN}")],
)  # fmt: skip
def test_without_regard_to_case_no_spelling_gets_around_it(pattern: str, path: str) -> None:
    assert matches(pattern, path, any_case=True)


@pytest.mark.parametrize("path", ["private", "private/a", "private/a/b"])
@pytest.mark.parametrize("pattern", ["private", "private/**", "**/private", "*", "priv*", "**"])
def test_what_covers_a_folder_covers_all_that_is_in_it(pattern: str, path: str) -> None:
    assert Glob.parse(pattern).covers(path.split("/"))


def test_what_is_beside_a_folder_is_not_covered() -> None:
    for path in ("privat", "privates", "x/private"):
        assert not Glob.parse("private").covers(path.split("/"))


def as_regex(pattern: str) -> str:
    """The same, by a well-known machine. Slow for many stars, so for short patterns only."""
    whole = re.escape(pattern).replace(r"\*\*/", "(?:[^/]+/)*").replace(r"/\*\*", "(?:/[^/]+)*")
    return whole.replace(r"\*\*", ".+").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


part = st.sampled_from(["**", *("*", "?", "a", "b", "a*", "*b", "?a", "a*b", "*a*")])
name = st.text("ab", min_size=1, max_size=3)


@given(st.lists(part, min_size=1, max_size=4), st.lists(name, min_size=1, max_size=5))
def test_it_means_what_the_regular_expression_means(parts: list[str], names: list[str]) -> None:
    if any(one == two == "**" for one, two in itertools.pairwise(parts)):
        return  # the regular expression above knows them one at a time only
    if len(parts) > 1 and parts[0] == parts[-1] == "**":
        return
    expected = re.fullmatch(as_regex("/".join(parts)), "/".join(names), re.DOTALL) is not None
    assert Glob.parse("/".join(parts)).matches(names) is expected


@given(st.lists(part, min_size=1, max_size=4), st.lists(name, max_size=5))
def test_it_covers_a_path_when_it_matches_a_beginning_of_it(
    parts: list[str], names: list[str]
) -> None:
    glob = Glob.parse("/".join(parts))
    beginnings = [names[:length] for length in range(len(names) + 1)]
    assert glob.covers(names) is any(glob.matches(beginning) for beginning in beginnings)


@given(st.text(min_size=1, max_size=20), st.lists(st.text(max_size=10), max_size=5))
def test_any_pattern_is_refused_or_matched_without_an_error(text: str, names: list[str]) -> None:
    for any_case in (False, True):
        try:
            glob = Glob.parse(text, any_case=any_case)
        except BadGlob:
            continue
        assert glob.matches(names) in (True, False)
        assert not glob.matches(names) or glob.covers(names)


@given(
    st.text(
        st.characters(exclude_characters="/*?[", exclude_categories=["Cs"]), min_size=1, max_size=9
    )
)
def test_a_name_without_special_characters_matches_itself(name: str) -> None:
    if name not in (".", ".."):
        assert matches(name, name)
        assert matches(name, name, any_case=True)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 500 + "b", "a" * 255),
        ("**/*a/" * 170 + "b", "/".join(["a"] * 2000)),
        ("**/" + "*?" * 300 + "x", "/".join(["a" * 255] * 16)),
    ],
)
def test_no_pattern_explodes(pattern: str, path: str) -> None:
    """Backtracking would take longer than the universe is old; work is bounded by the product of lengths."""
    began = time.process_time()
    assert not matches(pattern, path)
    assert time.process_time() - began < 30
