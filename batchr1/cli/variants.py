"""`batchr1 variants`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchr1.cli.options import JSON
from batchr1.cli.printing import say
from batchr1.errors import UsageError

if TYPE_CHECKING:
    from batchr1.sizing.fit import Fit

GIB = 2**30
NO_REPOSITORY = "* nobody is known to publish these weights"


@click.command()
@click.option(
    "--gpu", metavar="NAME", help='Say what fits this GPU ("RTX 4090"); it need not be here.'
)
@click.option(
    "--gpus",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help="So many of them; 1 without it.",
)
@JSON
def command(gpu: str | None, count: int | None, as_json: bool) -> None:
    """List the model variants: bytes of weights, and the smallest GPUs.

    A variant fits where the engine holds its weights and at least one prompt of 1,024 tokens with
    the longest generation that DeepSeek allows the model (32,768 tokens).
    """
    from batchr1.sizing.gpus import gpu_named

    if gpu is None and count is not None:
        raise UsageError(
            f"--gpus: says how many of which GPU (got {count} of none, need --gpu). Add --gpu NAME."
        )
    if gpu is None:
        documents = [_document(name) for name in _names()]
        say({"variants": documents}, _needs_as_text(documents), as_json=as_json)
        return
    found, number = gpu_named(gpu), count or 1
    documents = [_document(name, gpu=found.name, count=number) for name in _names()]
    where = {"name": found.name, "count": number, "memory_gib": found.memory_gib}
    head = f"{number} × {found.name}, {found.memory_gib:.1f} GiB each"
    document = {"gpu": where, "variants": documents}
    say(document, _fits_as_text(head, documents), as_json=as_json)


def _names() -> list[str]:
    from batchr1.models.catalogue import VARIANTS

    return list(VARIANTS)


def _document(name: str, *, gpu: str | None = None, count: int = 1) -> dict[str, Any]:
    """Convert a variant for JSON.

    It has the smallest GPU set of each precision, or its fit on `count` of `gpu`.
    """
    from batchr1.models.catalogue import VARIANTS
    from batchr1.sizing.offers.smallest_gpus import on_gpus, precisions, smallest_set

    entry = VARIANTS[name]
    found = precisions(entry)
    arch = found[0].arch
    document: dict[str, Any] = {
        "name": entry.name,
        "repository": entry.repo,
        "licence": entry.licence,
        "parameters": arch.parameters(),
        "active_parameters": arch.active_parameters(),
        "context_len": entry.context_len,
        "generation_len": entry.generation_len,
        "quantized": dict(entry.quantized),
        "precisions": [],
    }
    for precision in found:
        line: dict[str, Any] = {
            "precision": precision.name,
            "quantization": precision.quantization,
            "repository": precision.repository,
            "converted_while_loading": precision.converted,
            "weights_gib": round(precision.weight_bytes / GIB, 2),
        }
        if gpu is not None:
            line["fit"] = _fit(on_gpus(entry, precision, gpu, count), count)
        else:
            smallest = smallest_set(entry, precision)
            line["smallest"] = smallest and {
                "gpu": smallest.gpu,
                "gpus": smallest.count,
                **_fit(smallest.fit, smallest.count),
            }
        document["precisions"].append(line)
    return document


def _fit(fit: Fit | None, count: int) -> dict[str, Any]:
    if fit is None:
        return {"fits": False, "missing_gib": None}
    if not fit.fits:
        return {
            "fits": False,
            "missing_gib": round(fit.missing_bytes / GIB, 2),
            "kv_cache_tokens": fit.kv_cache_tokens,
        }
    replicas = count // fit.width
    return {
        "fits": True,
        "replicas": replicas,
        "tensor_parallel": fit.tensor_parallel,
        "pipeline_parallel": fit.pipeline_parallel,
        "max_model_len": fit.max_model_len,
        "kv_cache_tokens": fit.kv_cache_tokens,
        "max_num_seqs": fit.max_num_seqs,
        "tokens_per_s": round(fit.tokens_per_s * replicas),
    }


def _needs_as_text(documents: list[dict[str, Any]]) -> str:
    heads = "".join(
        f"  {p['precision'] + ', smallest GPUs':29}" for p in documents[0]["precisions"]
    )
    lines = [f"{'variant':20} {'parameters':>10}{heads}"]
    for d in documents:
        cells = ""
        for p in d["precisions"]:
            smallest = p["smallest"]
            gpus = "none catalogued"
            if smallest is not None:
                gpus = f"{smallest['gpus']} × {smallest['gpu']}"
            cells += f"  {p['weights_gib']:7,.1f} GiB{_mark(p)} {gpus:16}"
        lines.append(f"{d['name']:20} {_parameters(d['parameters']):>10}{cells}")
    lines += [
        NO_REPOSITORY,
        "Smallest: it also holds a prompt of 1,024 tokens and 32,768 new ones (r1-tiny: 4,096 in "
        "all). 16 GPUs are two "
        "nodes of 8.",
        "Licences, repositories, contexts: --json.",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _fits_as_text(head: str, documents: list[dict[str, Any]]) -> str:
    lines = [f"{head}; maths, prompts up to 1,024 tokens, up to 32,768 new ones"]
    for d in documents:
        name = d["name"]
        for p in d["precisions"]:
            lines.append(
                f"{name:20} {p['precision']:5} {p['weights_gib']:7,.1f} GiB{_mark(p)} "
                f"{_how(p['fit'])}"
            )
            name = ""
    return "\n".join([*lines, NO_REPOSITORY])


def _mark(precision: dict[str, Any]) -> str:
    if precision["repository"]:
        return " "
    return "*"


def _how(fit: dict[str, Any]) -> str:
    if not fit["fits"]:
        if fit["missing_gib"] is None:
            return "cannot be cut over so many GPUs"
        short = ""
        if fit["kv_cache_tokens"] > 1024:
            short = f"; sequences up to {fit['kv_cache_tokens']:,} tokens would fit"
        return f"lacks {fit['missing_gib']:,.1f} GiB per GPU{short}"
    split = f"TP {fit['tensor_parallel']}"
    if fit["pipeline_parallel"] > 1:
        split += f" × PP {fit['pipeline_parallel']}"
    return (
        f"{fit['replicas']} × {split}, KV cache of {fit['kv_cache_tokens']:,} tokens, "
        f"{fit['max_num_seqs']} at a time, "
        f"about {fit['tokens_per_s']:,} tokens/s"
    )


def _parameters(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.3g} B"
    return f"{count / 1e6:.3g} M"
