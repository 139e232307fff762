"""Causes of a failed connection: a certificate, a proxy, the server."""

from __future__ import annotations

import re
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from batchr1.engine.openai.faults import CertificateError, ProxyFault, ServerFault
from batchr1.errors import UsageError

_CERTIFICATE = re.compile(r"certificate[ _]verify[ _]failed|self[- ]signed certificate", re.I)
_CONNECTING = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)


def fault_of_network(exc: httpx.RequestError, base_url: str, words: str) -> Exception:
    """Name whose doing a failed request was.

    `words` are those of the failure, without anything secret.
    """
    if _CERTIFICATE.search(str(exc)):
        return CertificateError(words)
    variable = proxy_variable(base_url)
    if variable is not None and isinstance(exc, _CONNECTING):
        return ProxyFault(words, variable=variable)
    return ServerFault(words)


def proxy_variable(base_url: str) -> str | None:
    """Name the variable whose proxy stands before a server; None without one."""
    url = urlsplit(base_url)
    if url.hostname is None or proxy_bypass(url.hostname):
        return None
    found = getproxies()
    for scheme in (url.scheme, "all"):
        if found.get(scheme):
            return f"{scheme.upper()}_PROXY"
    return None


def said(exc: httpx.RequestError) -> str:
    """Name a failure without its address."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(exc).__name__).lower()
    words = " ".join(str(exc).split())[:200]
    return f"{name}: {words}" if words else name


def check_url(base_url: str) -> None:
    """Refuse an address that no request can be sent to.

    One such is http://10.0.0.256. Raises `UsageError`.
    """
    try:
        _ = httpx.URL(base_url).host
    except (httpx.InvalidURL, ValueError) as exc:
        raise UsageError(
            f"engine.base_url {base_url}: no request can be sent to this host. Correct it."
        ) from exc
