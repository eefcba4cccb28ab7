"""Hooks of MkDocs: pages from the root of the repository."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links between docs/ and the root ones within the site; a link to source code is its path alone."""
    if page.file.src_uri in ROOT_PAGES:
        markdown = re.sub(r'(\]\(|src=")docs/', r"\1", markdown)
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)", _within_site, markdown)


def _within_site(link: re.Match[str]) -> str:
    text, path, anchor = link.groups(default="")
    return f"[{text}]({path}{anchor})" if path in ROOT_PAGES else f"`{path}`"
