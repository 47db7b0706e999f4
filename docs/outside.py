"""Brings into the site what lies outside of `docs/` in the repository."""

import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: Files that become pages.
PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "models.md": "saved_models/README.md",
}
#: Pictures that pages show, by their path in the repository.
PICTURES = "benchmarks/cells/**/*.png"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files to those of the site."""
    root = pathlib.Path(config.config_file_path).parent
    pictures = (path.relative_to(root) for path in root.glob(PICTURES))
    outside = PAGES | {path.as_posix(): path for path in pictures}
    for uri, path in outside.items():
        files.append(File.generated(config, uri, abs_src_path=root / path))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs) -> str:
    """Lets a page find these files where they are in the site."""
    up = posixpath.relpath(".", posixpath.dirname(page.file.src_uri) or ".")
    moved = {path: uri for uri, path in PAGES.items()}
    moved["benchmarks/"] = "benchmarks/"
    for path, uri in moved.items():
        link = rf"\]\((\.\./)+{re.escape(path)}"
        markdown = re.sub(link, f"]({up}/{uri}", markdown)
    return markdown
