"""What makes a rendered project sound: each answer reads back, and nothing else changed."""

import ast
import email
import email.message
import email.utils
import functools
import importlib.machinery
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import yaml
from hatchling.metadata.core import ProjectMetadata
from hatchling.metadata.spec import DEFAULT_METADATA_VERSION, get_core_metadata_constructors
from hatchling.plugin.manager import PluginManager
from markdown_it import MarkdownIt
from markdown_it.token import Token
from packaging.utils import canonicalize_name

from .rendering import files_under

DEFAULTS = {
    "project_name": "My Run",
    "project_slug": "my-run",
    "description": "Train and test a PyTorch model.",
    "author_name": "The authors of My Run",
    "author_email": "",
}
# The files that hold answers in words; any other holds no more of them than the package's name.
FILES_WITH_WORDS = {"CITATION.cff", "LICENSE", "README.md", "pyproject.toml"}

COMMONMARK = MarkdownIt("commonmark")
GITHUB = MarkdownIt("gfm-like")
# GitHub makes links of http:// and www. only.
assert GITHUB.linkify is not None
GITHUB.linkify.set({"fuzzy_link": False, "fuzzy_email": False})

# A bare address takes backslashes along, and mathematics stands between dollar signs.
READ_BY_GITHUB_ONLY = re.compile(r"(?:\A|[\s*_~(])(?:www\.|https?://)\S*\\|(?<!\\)(?:\\\\)*\$")


def assert_sound(project: Path, answers: Mapping[str, str], default_project: Path) -> None:
    """Check a project rendered from these answers, the default one for those that are missing.

    Args:
        project: With a licence and a CI service as in `default_project`.
        answers: Those in words.
        default_project: Rendered from DEFAULTS.
    """
    given = with_defaults(answers)
    given["project_slug"] = answers.get("project_slug", project.name)
    assert_names_are_sound(project, given["project_slug"])
    assert_other_files_are_as_by_default(project, given["project_slug"], default_project)
    assert_metadata_reads_back(project, given)
    assert_citation_reads_back(project, given)
    assert_licence_reads_back(project, given["author_name"], default_project)
    for parser in (COMMONMARK, GITHUB):
        assert_readme_reads_back(project, given, default_project, parser)


def with_defaults(answers: Mapping[str, str]) -> dict[str, str]:
    """Return all answers in words but the slug's default, which follows from the title."""
    title = answers.get("project_name", DEFAULTS["project_name"])
    return {**DEFAULTS, "author_name": f"The authors of {title}", **answers}


def assert_names_are_sound(project: Path, slug: str) -> None:
    """Check folder, distribution and package: one name, valid, and used by nothing else."""
    package = slug.replace("-", "_")
    assert project.name == slug
    assert canonicalize_name(slug, validate=True) == slug
    assert package.isidentifier()
    assert package not in sys.builtin_module_names
    # The project's own folder comes last: another module of this name would be found first.
    spec = importlib.machinery.PathFinder.find_spec(package, [*sys.path, str(project / "src")])
    assert spec is not None
    assert spec.origin == str(project / "src" / package / "__init__.py")


def assert_other_files_are_as_by_default(project: Path, slug: str, default_project: Path) -> None:
    """Compare files and folders with the default project's, under this project's name."""
    default_files = files_of(default_project)
    assert files_under(project) == {renamed(name, slug) for name in default_files}
    for name in default_files - FILES_WITH_WORDS:
        text = (project / renamed(name, slug)).read_bytes().decode("utf-8")
        # The sources name the package nowhere.
        default = read(default_project / name)
        assert text == (default if name.startswith("src/") else renamed(default, slug)), name
        parse(name, text)


def renamed(text: str, slug: str) -> str:
    """Return what the default project's text would be in a project of this name."""
    return text.replace("my_run", slug.replace("-", "_")).replace("my-run", slug)


@functools.cache
def files_of(project: Path) -> set[str]:
    return files_under(project)


@functools.cache
def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


@functools.lru_cache(maxsize=1000)
def parse(name: str, text: str) -> None:
    """Parse a file as what its name says it is."""
    if name.endswith(".py"):
        ast.parse(text)
    elif name.endswith((".yaml", ".yml")):
        assert yaml.safe_load(text)


def assert_metadata_reads_back(project: Path, answers: Mapping[str, str]) -> None:
    """Read pyproject.toml as TOML, and as the metadata that a wheel carries."""
    text = (project / "pyproject.toml").read_bytes().decode("utf-8")
    author = {"name": answers["author_name"]}
    if answers["author_email"]:
        author["email"] = answers["author_email"]
    table = tomllib.loads(text)["project"]
    assert table["name"] == answers["project_slug"]
    assert table["description"] == answers["description"]
    assert table["authors"] == [author]
    metadata = wheel_metadata(project)
    assert metadata["Name"] == answers["project_slug"]
    assert metadata["Summary"] == answers["description"]
    assert metadata.get_payload() == (project / "README.md").read_text(encoding="utf-8")
    assert author_of(metadata) == author


def assert_citation_reads_back(project: Path, answers: Mapping[str, str]) -> None:
    """Compare CITATION.cff with what version 1.2.0 of the format has for these answers.

    An author is given by one name, whether of a person or of a group, as the format's guide says
    for authors of whom no more is known. It has no name for a licence that is proprietary.
    """
    citation = yaml.safe_load((project / "CITATION.cff").read_bytes().decode("utf-8"))
    licence = wheel_metadata(project)["License-Expression"]
    assert citation == {
        "cff-version": "1.2.0",
        "message": "If you use this software, please cite it as below.",
        "type": "software",
        "title": answers["project_name"],
        "authors": [{"name": answers["author_name"]}],
    } | ({} if licence.startswith("LicenseRef-") else {"license": licence})


def author_of(metadata: email.message.Message) -> dict[str, str]:
    """Return name and address as pyproject.toml gives them."""
    if "Author-email" not in metadata:
        return {"name": str(metadata["Author"])}
    [pair] = email.utils.getaddresses([str(metadata["Author-email"])])
    return dict(zip(("name", "email"), pair, strict=True))


def wheel_metadata(project: Path) -> email.message.Message:
    """Return the METADATA that hatchling writes into this project's wheel."""
    construct = get_core_metadata_constructors()[DEFAULT_METADATA_VERSION]
    return email.message_from_string(construct(ProjectMetadata(str(project), PluginManager())))


def assert_licence_reads_back(project: Path, author: str, default_project: Path) -> None:
    """Compare the licence with the default one, line by line."""
    default = read(default_project / "LICENSE")
    assert default.count(DEFAULTS["author_name"]) == 1
    text = (project / "LICENSE").read_bytes().decode("utf-8")
    assert text == default.replace(DEFAULTS["author_name"], author)


def assert_readme_reads_back(
    project: Path, answers: Mapping[str, str], default_project: Path, parser: MarkdownIt
) -> None:
    """Read title and first paragraph as plain text, and find the rest as it is by default."""
    text = (project / "README.md").read_bytes().decode("utf-8")
    tokens = parser.parse(text)
    defaults = parser.parse(renamed(read(default_project / "README.md"), project.name))
    assert [token.type for token in tokens] == [token.type for token in defaults]
    heading, paragraph, *others = [token for token in tokens if token.type == "inline"]
    assert plain_text(heading) == answers["project_name"]
    assert plain_text(paragraph) == answers["description"]
    for token in (heading, paragraph):
        assert READ_BY_GITHUB_ONLY.findall(token.content) == []
    assert [token.content for token in others] == [
        token.content for token in defaults if token.type == "inline"
    ][2:]


def plain_text(token: Token) -> str:
    """Return what a reader sees of a line that may hold no markup but links of bare addresses."""
    assert token.children is not None
    for child in token.children:
        assert child.type == "text" or child.info == "auto", child
    return "".join(child.content for child in token.children)
