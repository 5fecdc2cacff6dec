"""Refuse answers that would render a broken project, in one line that says what would do.

It runs in the empty project folder. Cookiecutter removes that folder when this script exits with
another code than 0.
"""

import json
import keyword
import re
import sys
import unicodedata
from typing import Any, NoReturn

# A raw string of JSON holds any answer: JSON escapes every quote and every control character, so
# no answer can end the string and become code.
ANSWERS: dict[str, Any] = json.loads(r"""{{ cookiecutter | tojson }}""")

MAX_LENGTHS = {"project_name": 100, "description": 300, "author_name": 200, "author_email": 254}
MAX_SLUG_LENGTH = 50

# Packages that the project or its tools import, and distributions that they install: a package of
# the same name would hide the one, and pip would take it for the other.
NEEDED = frozenset(
    """
    absl absl_py accelerate anyio argcomplete arrow ast_serialize attrs binaryornot build certifi
    charset_normalizer click cloudpickle colorlog contourpy cookiecutter coverage cycler dateutil
    dependency_groups distlib docstring_parser editables execnet filelock fonttools fsspec functorch
    grpc grpcio h11 hatchling hf_xet httpcore2 httpx2 huggingface_hub humanize hypothesis idna
    importlib_metadata iniconfig ipykernel ipython jinja2 joblib kiwisolver librt markdown
    markdown_it_py markupsafe matplotlib mdurl mlflow mpl_toolkits mpmath mypy mypy_extensions
    narwhals networkx nox numpy nvidia packaging pandas pathspec pil pillow pip platformdirs pluggy
    protobuf psutil py pygments pylab pyparsing pyproject_hooks pytest pytest_timeout pytest_xdist
    python_dateutil python_discovery python_slugify pyyaml regex requests rich ruff safetensors
    scikit_learn scipy setuptools six sklearn sortedcontainers sympy tensorboard
    tensorboard_data_server text_unidecode threadpoolctl torch torchgen torchvision tqdm trackio
    transformers triton trove_classifiers truststore typeguard types_pyyaml typing_extensions tyro
    tzdata urllib3 virtualenv wandb werkzeug wheel xdist yaml
    """.split()
)
# Names that the project's own files use, and standard modules that this Python may not know.
OCCUPIED = frozenset(["conftest", "noxfile", "src", "tests", "annotationlib", "compression"])
WINDOWS_DEVICES = frozenset(
    ["aux", "con", "nul", "prn"]
    + [device + digit for device in ("com", "lpt") for digit in "123456789"]
)
EMAIL = re.compile(
    r"[\w!$&'*+/=?^~-]+(\.[\w!$&'*+/=?^~-]+)*@[a-z0-9-]+(\.[a-z0-9-]+)+", re.A | re.I
)


def main() -> None:
    """Stop at the first answer that will not do."""
    for name, max_length in MAX_LENGTHS.items():
        fault = text_fault(ANSWERS[name], max_length=max_length)
        if fault and not (name == "author_email" and ANSWERS[name] == ""):
            refuse(name, ANSWERS[name], fault)
    # cookiecutter.json replaces a slug that is no plain folder name, so that nothing is made
    # elsewhere; what was answered is kept beside it.
    slug = ANSWERS["__answered_slug"]
    fault = slug_fault(slug)
    if fault:
        refuse("project_slug", slug, fault)
    email = ANSWERS["author_email"]
    if email and not EMAIL.fullmatch(email):
        refuse(
            "author_email", email, "is no e-mail address; try name@example.org, or leave it empty"
        )


def text_fault(text: str, *, max_length: int) -> str | None:
    """Return what is wrong with a one-line answer, or None."""
    if not text:
        return "is empty; type at least one word"
    if len(text) > max_length:
        return f"has {len(text)} characters; the most is {max_length}"
    # Control characters, halves of surrogate pairs, line and paragraph separators.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        return "holds a line break or another control character; type one line of plain text"
    if text != text.strip():
        return f"has spaces at its ends; try {text.strip()!r}"
    return None


def slug_fault(slug: str) -> str | None:
    """Return what is wrong with the name of folder, distribution and package, or None."""
    if not slug:
        return "is empty; type lower-case words joined by hyphens, such as my-run"
    if len(slug) > MAX_SLUG_LENGTH:
        return f"has {len(slug)} characters; the most is {MAX_SLUG_LENGTH}"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        return (
            "must begin with a letter and hold lower-case words joined by single hyphens; "
            f"try {suggested_slug(slug)!r}"
        )
    package = slug.replace("-", "_")
    suggestion = f"try '{slug}-run'"
    if keyword.iskeyword(package):
        return f"is a word of the Python language; {suggestion}"
    if package in sys.stdlib_module_names:
        return f"would hide Python's own module {package}; {suggestion}"
    if package in NEEDED:
        return f"is the name of a package that the project uses; {suggestion}"
    if package in OCCUPIED:
        return f"is a name that the project needs for something else; {suggestion}"
    if slug in WINDOWS_DEVICES:
        return f"is a device on Windows and can be no folder there; {suggestion}"
    return None


def suggested_slug(slug: str) -> str:
    """Return a name like this one that will do."""
    ascii_text = unicodedata.normalize("NFKD", slug).encode("ascii", "ignore").decode().lower()
    suggestion = "-".join(re.findall(r"[a-z0-9]+", ascii_text)).lstrip("-0123456789")
    if suggestion and slug_fault(suggestion) is None:
        return suggestion
    return f"{suggestion}-run" if suggestion else "my-run"


def refuse(name: str, answer: str, fault: str) -> NoReturn:
    """Say it in one line on stderr and exit with code 1."""
    shown = answer if len(answer) <= 60 else answer[:60] + "..."
    sys.exit(f"{name} ({shown!r}) {fault}")


main()
