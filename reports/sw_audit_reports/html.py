"""The record as one HTML file that needs nothing else: no script, no link, no font."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from sw_audit.record.record import Record
from sw_audit_reports.view import build_page

RECORD_ID = "sw-audit-record"


def render_html(record: Record) -> str:
    """Render the record as one self-contained HTML page.

    The page carries the record as inert JSON in the element with the id `sw-audit-record`, so that it can be
    rendered again, and a content security policy that lets nothing run and nothing load.

    Args:
        record: The record of an audit.
    """
    style = _read_style()
    template = _open_environment().get_template("report.html.j2")
    return template.render(
        page=build_page(record),
        style=style,
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        record_id=RECORD_ID,
        record=embed_json(record),
    )


def embed_json(record: Record) -> str:
    r"""Write the record as JSON that cannot end the element it stands in: `<` is written `\u003c`."""
    return record.model_dump_json(by_alias=True).replace("<", r"\u003c")


def _read_style() -> str:
    return resources.files("sw_audit_reports").joinpath("style.css").read_text(encoding="utf-8")


@cache
def _open_environment() -> Environment:
    return Environment(
        loader=PackageLoader("sw_audit_reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
