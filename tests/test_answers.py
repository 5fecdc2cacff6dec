"""Every answer in words renders a sound project or is refused in one line.

`nox -s answers` runs the same with thousands of generated answers and counts what became of them.
"""

import collections
import re
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import COUNTS
from .rendering import render_in_process
from .soundness import assert_sound

# The most characters of an answer that is any line of plain text.
MAX_LENGTHS = {"project_name": 100, "description": 300, "author_name": 200}

# Control characters, halves of surrogate pairs, line and paragraph separators.
BROKEN_CATEGORIES: tuple[Literal["Cc", "Cs", "Zl", "Zp"], ...] = ("Cc", "Cs", "Zl", "Zp")
# Formats, marks on the character before, spaces: at least one must be something else.
UNSEEN_CATEGORIES = ("Cf", "Mn", "Zs")

# Legitimate, and awkward to one format or another.
AWKWARD = [
    "Ünïcödé \U0001f389 & <Friends>",
    "'quoted' \"twice\" ''' \"\"\" \\\" \\' \\\\",
    "ends in a backslash \\",
    "# {{ 7 * 7 }} {% raw %} {# none #} #% if 1",
    "{{ cookiecutter.license }} {{ ''.__class__ }}",
    'It says "\\n\\t\\u0041\\x41": {key: [value]} %s %(name)s {0} {name!r} ${HOME} $(id) `id`',
    "</script><script>alert(1)</script> <!-- --> <br/> <https://example.org> <a@b.org>",
    "&amp; &#35; &#x23; &copy &copy; R&D; AT&T &#0; &#x110000; &#99999999999;",
    '"""; raise SystemExit(3)  #',
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u200fRTL\u200e \u202eturned\u202c",
    "e\u0301 \u0301first \U0001f469\u200d\U0001f4bb \ufe0f \u200b \ufeff \ufffd \uffff",
    "no\u00a0break \u3000 wide \u2009 thin",
    "- item: yes",
    "+ 1",
    "1. first",
    "2024) second",
    "> quoted",
    "=====",
    "---",
    "***",
    "| a | b |",
    "#",
    "# heading # ##",
    "C# and F# #12 #",
    "*a* **b** _c_ __d__ a_b_c ~~e~~ ~f~ `g` ``h`` $i$ $$j$$ a__b _",
    "[text](https://example.org) ![image](x.png) [^1] [x]: y [ ] ]( ]",
    "my_www.data[v2] x_https://a_b[c]",
    "https://example.org/~a_b_/*c*?d=1&amp;e#_f_ www.example.org/_g_ www.a_b.org",
    "key: value # comment",
    "!!python/object/apply:os.system ['id'] &anchor *alias ? | > @ %TAG",
    "[table]\u00b7key = 'x' \u00b7 [[array]]",
    "null",
    "true",
    "0x10",
    "1e3",
    "~",
    "C:\\Users\\new\\table \\\\server\\share",
    "/etc/passwd ../../escaped ~/x",
    "nul",
    "con.txt",
    "class",
    "torch",
    "tests",
    "logging",
    "../escaped",
    "$(touch canary) `touch canary` ; touch canary | touch canary && touch canary",
    'O\'Neill, "Ada" \\ (and others); M\u00fcller <m@example.org>, Jr.',
    "=1+1",
    "@mention :tada: \\: %",
    ".",
    "x",
]
# Each is refused: for any answer in words, then for those of one kind.
NO_LINE = ["", " ", " before", "after ", "\u00a0x", "x\u3000", "two\nlines", "two\r\nlines", "\r"]
NO_LINE += ["tab\tinside", "nul\0", "bell\a", "escape\x1b[31m", "delete\x7f", "next\x85line"]
NO_LINE += ["\u200b", "\u2060\ufe0f", "\u2003"]
NO_LINE += ["line\u2028separator", "paragraph\u2029separator", "half\ud83d", "\udc89half"]
EMAILS = [
    "",
    "ada@example.org",
    "a{b}|c%d`e#f~g@h.i.org",
    "o'neill+runs@mail.example.org",
    "a_b-c&d=e?f@x-y.example.org",
]
NO_EMAILS = ["nobody", "a@b", "Ada <ada@example.org>", 'ada"@example.org', "a@b.org, c@d.org"]
NO_EMAILS += ["a b@c.org", "a@-b.org", "a@b.org\n", "a\\@b.org", "a@b..org", "@b.org", "ä@b.org"]
NO_EMAILS += ["<script>@b.org", "{{ 7 }}@b.org", "a@[127.0.0.1]", "a" * 250 + "@b.org", " "]
SLUGS = ["x", "my-run", "run-2", "a-name-of-just-the-fifty-characters-that-may-be-us", "com-1"]
NO_SLUGS = ["", " ", "My-Run", "my_run", "my--run", "-run", "run-", "1st", "../escaped", "a/b"]
NO_SLUGS += ["C:\\temp", ".", "..", "~", "na\u00efve", "two\nlines", "a b", "$(id)", "{{ 7 }}"]
NO_SLUGS += ["class", "match/case", "logging", "tomllib", "annotationlib", "distutils", "torch"]
NO_SLUGS += ["tests", "src", "conftest", "noxfile", "nul", "con", "com1", "s" * 51, "s" * 300]
NO_SLUGS += ["test", "sitecustomize", "xxlimited", "mypyc", "z3", "markdown-it", "slugify"]
NO_SLUGS += ["scikit-learn", "huggingface-hub", "google", "tensorflow", "wandb", "\u0430dmin"]

# What generated answers are made of, beside any character.
PIECES = [
    *sorted({piece for text in AWKWARD for piece in text.split()}),
    *"\\\"'`*_[]<>&#$~|- \n\t\r\0\x1b\x85\u2028",
    *("{{", "}}", "{%", "#%", "'''", '"""', "://", "](", "www."),
]


def is_one_line(text: str, *, max_length: int) -> bool:
    """Return whether the README promises to render this answer."""
    broken = any(unicodedata.category(character) in BROKEN_CATEGORIES for character in text)
    seen = any(unicodedata.category(character) not in UNSEEN_CATEGORIES for character in text)
    return seen and len(text) <= max_length and text == text.strip() and not broken


def render_or_refuse(
    answers: Mapping[str, str], default_project: Path, *, typed: bool = False
) -> str | None:
    """Render the answers and return None, or return the refusal; check what either promises."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a repository post_gen makes none, which saves a third of the time.
        (folder / ".git").mkdir()
        output = folder / "out"
        refusal = None
        try:
            render_in_process(output, answers, typed=typed)
        except SystemExit as error:
            refusal = str(error.code)
        assert {path.name for path in folder.iterdir()} == {".git", "out", "out-settings"}
        assert {path.suffix for path in (folder / "out-settings").iterdir()} <= {".yaml", ".json"}
        projects = list(output.iterdir())
        if refusal is None:
            [project] = projects
            assert_sound(project, answers, default_project)
        else:
            assert projects == []
            assert_one_clear_line(refusal, answers)
    return refusal


def assert_one_clear_line(refusal: str, answers: Mapping[str, str]) -> None:
    """Check that a refusal names the answer and shows it, in one line that says what would do."""
    [line] = refusal.splitlines()
    name = line.split(" ", 1)[0]
    assert name in answers
    assert line.startswith(f"{name} ({answers[name]!r}"[:60])
    assert re.search(r"; (try|type) \S|the most is \d", line), line


@pytest.mark.parametrize("row", range(len(AWKWARD)), ids=lambda row: ascii(AWKWARD[row]))
def test_awkward_answers_read_back_from_every_file(row: int, default_project: Path) -> None:
    """Over all rows, each answer of the table stands in each place, beside two others."""
    texts = [AWKWARD[(row + shift) % len(AWKWARD)] for shift in (0, 17, 31)]
    answers = dict(zip(MAX_LENGTHS, texts, strict=True))
    assert render_or_refuse(answers, default_project) is None


@pytest.mark.parametrize("name", MAX_LENGTHS)
def test_an_answer_may_have_its_full_length_and_no_more(name: str, default_project: Path) -> None:
    full = "\U0001f389" * MAX_LENGTHS[name]
    slug = {"project_slug": "my-run"}
    assert render_or_refuse({name: full, **slug}, default_project) is None
    refusal = render_or_refuse({name: full + "x", **slug}, default_project)
    assert refusal is not None
    assert refusal.endswith(f"has {len(full) + 1} characters; the most is {len(full)}")


@pytest.mark.parametrize("name", MAX_LENGTHS)
@pytest.mark.parametrize("answer", NO_LINE, ids=ascii)
def test_what_is_no_line_of_text_is_refused(name: str, answer: str, default_project: Path) -> None:
    refusal = render_or_refuse({name: answer}, default_project)
    assert refusal is not None
    assert refusal.startswith(name)


@pytest.mark.parametrize("address", EMAILS)
def test_an_address_reads_back_with_any_author(address: str, default_project: Path) -> None:
    for author in ("Ada", 'O\'Neill, "Ada" \\ (and others) <x@y.org>', "\U0001f389 M\u00fcller"):
        answers = {"author_email": address, "author_name": author}
        assert render_or_refuse(answers, default_project) is None


@pytest.mark.parametrize("address", [*NO_EMAILS, *NO_LINE[1:]], ids=lambda text: ascii(text)[:40])
def test_what_is_no_address_is_refused(address: str, default_project: Path) -> None:
    refusal = render_or_refuse({"author_email": address}, default_project)
    assert refusal is not None
    assert "is no e-mail address; try name@example.org, or leave it empty" in refusal


@pytest.mark.parametrize("slug", SLUGS)
def test_a_plain_slug_names_folder_distribution_and_package(
    slug: str, default_project: Path
) -> None:
    assert render_or_refuse({"project_slug": slug}, default_project) is None


@pytest.mark.parametrize("slug", NO_SLUGS, ids=lambda text: ascii(text)[:40])
def test_a_slug_that_will_not_do_is_refused_with_one_that_does(
    slug: str, default_project: Path
) -> None:
    refusal = render_or_refuse({"project_slug": slug}, default_project)
    assert refusal is not None
    suggestions = re.findall(r"; try '([^']*)'$", refusal)
    assert suggestions or refusal.endswith("such as my-run") or "the most is 50" in refusal
    for suggestion in suggestions:
        assert render_or_refuse({"project_slug": suggestion}, default_project) is None


# Two thousand sets of answers take ten minutes on a free core.
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("typed", [False, True], ids=["given", "typed"])
def test_generated_answers_read_back_or_are_refused(
    typed: bool, default_project: Path, pytestconfig: pytest.Config
) -> None:
    counts = pytestconfig.stash.setdefault(COUNTS, collections.Counter())

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(answers=answer_sets(typed=typed))
    def check(answers: dict[str, str]) -> None:
        refusal = render_or_refuse(answers, default_project, typed=typed)
        how = "typed" if typed else "given"
        became = "rendered" if refusal is None else "refused for " + refusal.split(" ", 1)[0]
        counts[f"sets of generated answers, {how}: {became}"] += 1
        counts[f"generated answers, {how}"] += len(answers)
        # Nothing that the README promises to render is refused.
        for name, max_length in MAX_LENGTHS.items():
            promised = name not in answers or is_one_line(answers[name], max_length=max_length)
            assert promised or refusal is not None
            assert not promised or refusal is None or not refusal.startswith(name)

    check()


def answer_sets(*, typed: bool) -> st.SearchStrategy[dict[str, str]]:
    """Return one, two or all answers in words, as a person or a program might give them."""
    any_character = st.characters(codec="utf-8" if typed else None)
    # Most sets hold lines of plain text only, or else few would be rendered.
    plain_character = st.characters(codec="utf-8", exclude_categories=BROKEN_CATEGORIES)
    any_text = pieces_of(PIECES, any_character)
    plain = pieces_of(
        [piece for piece in PIECES if is_one_line(piece, max_length=100)], plain_character
    ).map(lambda text: text.strip()[:100].strip() or "x")
    long_text = st.tuples(plain, st.integers(2, 60)).map(lambda pair: pair[0] * pair[1])
    line = frequently(plain, st.one_of(any_text, long_text))
    address = frequently(st.sampled_from(EMAILS) | st.emails(), line)
    plain_slug = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,8}){0,4}", fullmatch=True)
    slug = frequently(plain_slug, st.one_of(st.sampled_from(NO_SLUGS), line))
    kinds = {**dict.fromkeys(MAX_LENGTHS, line), "author_email": address, "project_slug": slug}
    if typed:
        kinds = {name: kind.map(as_typed) for name, kind in kinds.items()}
        # Only the address may be left empty, and is by default.
        kinds["author_email"] = address.map(lambda text: re.sub(r"[\r\n]", "", text).strip())
    return st.sets(st.sampled_from(sorted(kinds)), min_size=1, max_size=2).flatmap(
        lambda names: st.fixed_dictionaries({name: kinds[name] for name in sorted(names)})
    ) | st.fixed_dictionaries(kinds)


def pieces_of(pieces: list[str], character: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return texts of a few of these pieces and of other characters, in any order."""
    # Evenly drawn characters are mostly letters, which no format treats in a special way.
    piece = st.one_of(st.sampled_from(pieces), st.text(character, max_size=5))
    return st.lists(piece, max_size=9).map("".join)


def frequently(
    usual: st.SearchStrategy[str], other: st.SearchStrategy[str]
) -> st.SearchStrategy[str]:
    """Return the first kind nine times out of ten."""
    return st.integers(0, 9).flatmap(lambda number: usual if number else other)


def as_typed(text: str) -> str:
    """Return what the prompt makes of this text; nothing typed would be the default."""
    return re.sub(r"[\r\n]", "", text).strip() or "x"
