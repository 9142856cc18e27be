"""Draws the comment on a pull request as GitHub shows it: the picture in the README.

    sw-audit demo d && sw-audit audit d/broken-int4 d/sound-int4 --parent d/specimen --out d/out
    python -m tools.comment_picture d/out/record.json reports/comment.png

It needs npm, which fetches GitHub's style sheet for Markdown (`github-markdown-css`, MIT), and Chromium.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

from sw_audit.ci.comment import write_body, write_marker
from sw_audit.record.rendering import render_record
from sw_audit.record.store import read_record

STYLE = "github-markdown-css@5.9.0"
WIDTH = 900
_LIMIT = 150_000
_FOOTER = "Commit 3f9c1b2a7d04 · [run](https://github.com) · [report](https://github.com)"
_PAGE = """<!doctype html><meta charset="utf-8"><style>{style}
body {{ margin: 0; padding: 16px; background: #fff }}
article {{ border: 1px solid #d1d9e0; border-radius: 6px; overflow: hidden }}
header {{ padding: 8px 16px; background: #f6f8fa; border-bottom: 1px solid #d1d9e0; color: #59636e;
  font: 14px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }}
header b {{ color: #1f2328 }}
header i {{ border: 1px solid #d1d9e0; border-radius: 2em; padding: 0 7px; font-style: normal }}
.markdown-body {{ padding: 16px; font-size: 14px }}
</style><article><header><b>github-actions</b> <i>bot</i> commented</header>
<div class="markdown-body" data-color-mode="light" data-theme="light">{body}</div></article>
<script>document.title = Math.ceil(document.documentElement.getBoundingClientRect().height)</script>"""


def draw_comment(record: Path, picture: Path) -> None:
    """Draw the comment on a record into a PNG file.

    Raises:
        RuntimeError: If the picture is larger than a README should load.
    """
    markdown = write_body(render_record(read_record(record), "markdown"), write_marker("sw-audit"), _FOOTER)
    body = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(_PAGE.format(style=_fetch_style(Path(folder)), body=body), encoding="utf-8")
        seen = _browse(page, 100, "--dump-dom")
        [height] = re.findall(r"<title>(\d+)</title>", seen)
        _browse(page, int(height), f"--screenshot={picture.absolute()}")
    if (size := picture.stat().st_size) > _LIMIT:
        raise RuntimeError(f"{picture} has {size:,} bytes, more than {_LIMIT:,}")


def _fetch_style(folder: Path) -> str:
    subprocess.run(["npm", "pack", "--silent", STYLE], cwd=folder, check=True, capture_output=True)  # noqa: S603, S607
    [archive] = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        style = packed.extractfile("package/github-markdown-light.css")
        assert style is not None  # noqa: S101 - what is packed so is a file
        return style.read().decode()


def _browse(page: Path, height: int, action: str) -> str:
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{height}",
    ]
    command = ["chromium", *options, action, page.as_uri()]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - a fixed program
    return ended.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("picture", type=Path)
    draw_comment(**vars(parser.parse_args()))
