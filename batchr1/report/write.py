"""Where a report goes: a file beside the results, or one that the user names."""

from __future__ import annotations

from pathlib import Path

from batchr1.data.output import DATA_DIR, REPORT_FILE, Output
from batchr1.data.storage import CONTROL_DIR, open_storage
from batchr1.data.storage_uri import split_uri
from batchr1.errors import UsageError


def write_report(output: Output, page: bytes, to: str | None = None) -> str:
    """Write the page to `to`, or to OUTPUT/report.html. It appears whole. Returns its absolute URI.

    Raises `UsageError` when `to` is a folder or lies among the results.
    """
    if to is None:
        output.storage.write_bytes(REPORT_FILE, page)
        return output.storage.where(REPORT_FILE)
    kind, place = split_uri(to)
    folder, slash, name = place.rpartition("/")
    uri = f"s3://{place}" if kind == "s3" else place
    if to.endswith("/") or not name or not slash or (kind == "local" and Path(place).is_dir()):
        raise UsageError(f"--to {to}: is a folder (need a file). Write --to {to.rstrip('/')}/report.html.")
    for inner in (DATA_DIR, CONTROL_DIR):
        if uri.startswith(f"{output.uri}/{inner}/"):
            raise UsageError(f"--to {to}: lies among the results (got {inner}/ of the output). Give another place.")
    open_storage(f"s3://{folder}" if kind == "s3" else folder or "/", output.storage.options).write_bytes(name, page)
    return uri
