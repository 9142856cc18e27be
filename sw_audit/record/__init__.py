"""Write, read and upgrade records: the one product of an audit, from which every report is rendered."""

from sw_audit.record.codec import decode_record, encode_record
from sw_audit.record.environment import describe_environment
from sw_audit.record.rendering import render_record
from sw_audit.record.schema import json_schema
from sw_audit.record.store import check_writable, read_record, write_text

__all__ = [
    "check_writable",
    "decode_record",
    "describe_environment",
    "encode_record",
    "json_schema",
    "read_record",
    "render_record",
    "write_text",
]
