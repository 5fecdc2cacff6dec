"""Refuse answers that would render a broken project, and escape the others for their files.

Cookiecutter loads this as an extension of its Jinja, which `cookiecutter.json` names. That makes
a refusal one line, right after the question and before anything is written; a hook would speak
after the last question, above a traceback. Cruft loads it once for an old and a new commit of the
template: a filter that changes its name or meaning needs a module of another name.
"""

import json
import keyword
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from jinja2 import Environment
from jinja2.ext import Extension

MAX_SLUG_LENGTH = 50
MAX_EMAIL_LENGTH = 254

# Read at once, because cruft removes its clone of the template later.
NEEDED = frozenset(
    line
    for line in Path(__file__).with_name("needed_names.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
)
# Standard modules of Python 3.11 to 3.15 that the Python which runs cookiecutter may not know, or
# not name, and modules that any Python imports at its start.
OTHER_STANDARD_MODULES = frozenset(
    """
    aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils
    imghdr imp lib2to3 mailcap msilib nis nntplib ossaudiodev pipes profiling sitecustomize
    smtpd sndhdr spwd sunau telnetlib test tomllib usercustomize uu xdrlib xxlimited
    xxlimited_35 xxsubtype
    """.split()
)
# Names that the project's own files use, and folders that ruff or mypy leave out.
OCCUPIED = frozenset(["conftest", "dist", "node_modules", "noxfile", "src", "tests"])
WINDOWS_DEVICES = frozenset(
    ["aux", "con", "nul", "prn"]
    + [device + digit for device in ("com", "lpt") for digit in "123456789"]
)
# A dot-atom on each side, by RFC 5322; a domain of at least two labels.
ATOM, LABEL = r"[\w!#$%&'*+/=?^`{|}~-]+", "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
EMAIL = re.compile(rf"{ATOM}(\.{ATOM})*@{LABEL}(\.{LABEL})+", re.A | re.I)
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class CheckedAnswers(Extension):
    """The filters of the template: escapes for its files, checks for its questions."""

    def __init__(self, environment: Environment) -> None:
        """Add the filters to the environment that cookiecutter makes."""
        super().__init__(environment)
        environment.filters.update(
            checked=checked,
            fault=answers_fault,
            package_of=package_of,
            sound_slug=sound_slug,
            quoted=quoted,
            markdown=markdown,
        )


def checked(answers: Mapping[str, object]) -> str:
    """Return nothing, or end the program in one line about the first answer that will not do.

    Raises:
        SystemExit: With that line, which Python prints on stderr, and exit code 1. Cookiecutter
            and cruft let it through; their own errors would add a traceback.
    """
    fault = answers_fault(answers)
    if fault:
        raise SystemExit(fault)
    return ""


def answers_fault(answers: Mapping[str, object]) -> str | None:
    """Return one line: which of the answers given so far will not do, why, and what would."""
    # Cookiecutter keeps back a table, which a settings file can hold, until all other questions are
    # answered, but their defaults need these two.
    for name in ("project_name", "project_slug")[: max(len(answers), 1)]:
        if name not in answers:
            return f"{name} is no text; put it in quotes"
    for name, answer in answers.items():
        fault = None
        if name in FAULTS:
            # A configuration file can hold numbers and nothing at all.
            text = isinstance(answer, str)
            fault = FAULTS[name](str(answer)) if text else "is no text; put it in quotes"
        elif name == "__package_name" and answer != package_of(str(answers["project_slug"])):
            fault = "follows from project_slug; leave it out"
        elif name == "__year" and not re.fullmatch("[0-9]{4}", str(answer)):
            fault = "is no year; leave it out"
        if fault:
            shown = repr(answer) if len(repr(answer)) <= 60 else repr(answer)[:60] + "..."
            return f"{name} ({shown}) {fault}"
    return None


def text_fault(text: str, *, max_length: int) -> str | None:
    """Return what is wrong with a one-line answer, or None."""
    if not text:
        return "is empty; type at least one word"
    if len(text) > max_length:
        return f"has {len(text)} characters; the most is {max_length}"
    # Control characters, halves of surrogate pairs, line and paragraph separators.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        return "holds a line break or another control character; type one line of plain text"
    if all(unicodedata.category(character) in ("Cf", "Mn", "Zs") for character in text):
        return "has no character that can be seen; type at least one word"
    if text != text.strip():
        return f"has spaces at its ends; try {text.strip()!r}"
    return None


def email_fault(address: str) -> str | None:
    """Return what is wrong with an e-mail address, or None; it may be empty."""
    if address and (len(address) > MAX_EMAIL_LENGTH or not EMAIL.fullmatch(address)):
        return "is no e-mail address; try name@example.org, or leave it empty"
    return None


def slug_fault(slug: str) -> str | None:
    """Return what is wrong with the name of folder, distribution and package, or None."""
    if not slug:
        return "is empty; type lower-case words joined by hyphens, such as my-run"
    if len(slug) > MAX_SLUG_LENGTH:
        return f"has {len(slug)} characters; the most is {MAX_SLUG_LENGTH}"
    if not SLUG.fullmatch(slug):
        return (
            "must begin with a letter and hold lower-case words joined by single hyphens; "
            f"try {sound_slug(slug)!r}"
        )
    # A project keeps its name, although the template has come to need it since.
    fault = None if slug == UPDATED_SLUG else package_fault(package_of(slug))
    return f"{fault}; try {sound_slug(slug)!r}" if fault else None


def updated_slug() -> object:
    """Return the slug of the project that cruft updates, which it does in the project's folder."""
    try:
        with open(".cruft.json", encoding="utf-8") as file:
            return json.load(file)["context"]["cookiecutter"]["project_slug"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def package_of(slug: str) -> str:
    """Return the name of the package in the project of this name."""
    return slug.replace("-", "_")


def package_fault(package: str) -> str | None:
    """Return what the project could not do if its package had this name, or None."""
    if keyword.iskeyword(package):
        return "is a word of the Python language"
    if package in sys.stdlib_module_names or package in OTHER_STANDARD_MODULES:
        return f"would hide Python's own module {package}"
    if package in NEEDED:
        return "is the name of a package that the project uses"
    if package in OCCUPIED:
        return "is a name that the project needs for something else"
    if package in WINDOWS_DEVICES:
        return "is a device on Windows and can be no folder there"
    return None


def sound_slug(text: str) -> str:
    """Return a slug that will do and is as much like this text as it can be."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall("[a-z0-9]+", ascii_text)) or "my-run"
    slug = words if words[0].isalpha() else f"run-{words}"
    slug = slug[:MAX_SLUG_LENGTH].rstrip("-")
    return f"{slug}-run" if package_fault(package_of(slug)) else slug


def quoted(text: str) -> str:
    """Return the inside of a double-quoted string, alike in TOML, YAML, JSON and Python."""
    return text.translate(QUOTED)


def markdown(text: str) -> str:
    """Return one line of Markdown that reads as this text, with the fewest backslashes."""
    return LIST_NUMBER.sub(r"\1\\\2", MARKUP.sub(r"\\\g<0>", text))


FAULTS: dict[str, Callable[[str], str | None]] = {
    "project_name": partial(text_fault, max_length=100),
    "project_slug": slug_fault,
    "description": partial(text_fault, max_length=300),
    "author_name": partial(text_fault, max_length=200),
    "author_email": email_fault,
}
# Read where cookiecutter is called, before it goes to folders of its own.
UPDATED_SLUG = updated_slug()
QUOTED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
MARKUP = re.compile(
    r"""
    [\\`*<[~$]                    # escapes, code, emphasis, HTML, links, mathematics
    | (?<![^\W_])_ | _(?![^\W_])   # emphasis, but for the inside of a_name
    | &(?=\#?\w+;)                 # entities
    | (?<!\S)\#                    # headings and their ends
    | :(?=//) | (?<=www)\.         # bare addresses, which would keep the backslashes
    | \A[-+=>]                     # lists, rulers, quotations
    """,
    re.VERBOSE,
)
LIST_NUMBER = re.compile(r"\A([0-9]{1,9})([.)])(?=\s|\Z)")
