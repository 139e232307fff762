"""Writing a report: beside the results, or where the user says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batchr1.errors import UsageError
from batchr1.output.folder import DATA_DIR, REPORT_FILE, Output
from batchr1.storage.base import CONTROL_DIR, open_storage
from batchr1.storage.errors import mapped
from batchr1.storage.files import is_replaceable, write_into
from batchr1.storage.uri import split_uri


def write_report(outputs: Sequence[Output], page: bytes, to: str | None = None) -> str:
    """Write the page to `to`, or to OUTPUT/report.html of one output.

    A file appears whole; a device, a FIFO or a link is written into. Returns its absolute URI.
    Raises `UsageError` when `to` is a folder, lies among the results, or is not there for several
    outputs.
    """
    output = outputs[0]
    if to is None:
        refuse_no_place(outputs, to)
        output.storage.write_bytes(REPORT_FILE, page)
        return output.storage.where(REPORT_FILE)
    kind, place = split_uri(to)
    folder, slash, name = place.rpartition("/")
    uri, root = place, folder or "/"
    if kind == "s3":
        uri, root = f"s3://{place}", f"s3://{folder}"
    if to.endswith("/") or not name or not slash or (kind == "local" and Path(place).is_dir()):
        raise UsageError(
            f"--to {to}: is a folder (need a file). Write --to {to.rstrip('/')}/report.html."
        )
    for inner in (DATA_DIR, CONTROL_DIR):
        if any(uri.startswith(f"{one.uri}/{inner}/") for one in outputs):
            raise UsageError(
                f"--to {to}: lies among the results (got {inner}/ of the output). "
                "Give another place."
            )
    if kind == "local" and not is_replaceable(Path(place)):
        with mapped(uri):
            write_into(Path(place), page)
        return uri
    open_storage(root, output.storage.options).write_bytes(name, page)
    return uri


def refuse_no_place(outputs: Sequence[Output], to: str | None) -> None:
    """Raise `UsageError` where the page of several outputs has no place."""
    if to is None and len(outputs) > 1:
        raise UsageError(
            f"--to: the page of several outputs has no place of its own (got {len(outputs)}). "
            "Add --to nights.html."
        )
