"""metrics.json as a printed table."""

from torch import Tensor


def table(result: dict, own_rows: list[tuple[str, float | list[float] | None, str]]) -> str:
    """The figures as a table of two columns, those of the kind of data last; those that do not apply are left out."""
    bits, latents = result["bits_per_dim"], result["latents"]
    rows = [
        ("distortion, bits/dim", bits["distortion"], ".4f"),
        ("rate, uniform prior, bits/dim", bits["rate_uniform"], ".4f"),
        ("rate, learned prior, bits/dim", bits["rate_prior"], ".4f"),
        ("rate, N(0, I), bits/dim", bits["rate_normal"], ".4f"),
        ("bound, uniform prior, bits/dim", bits["total_uniform"], ".4f"),
        ("bound, learned prior, bits/dim", bits["total_prior"], ".4f"),
        ("bound, N(0, I), bits/dim", bits["total_normal"], ".4f"),
        *bound_rows(result["bounds"]),
        *code_rows(result["codes"]),
        ("latents per example", latents["dims"], ".1f"),
        ("bits per example: training prior", latents["bits"], ".1f"),
        ("bits per example: unigram", latents["bits_unigram"], ".1f"),
        ("bits per example: learned prior", latents["bits_prior"], ".1f"),
        *file_rows(result["files"]),
        ("mean norm of z_e", latents["mean_norm"], ".3f"),
        *shuffled_rows(latents["shuffled"]),
        *own_rows,
    ]
    title = f"{result['run']}: {result['items']} items of {result['data']} ({result['split']})"
    lines = [row_line(*row) for row in rows if row[1] is not None]
    return "\n".join([title, "-" * 58, *lines, "-" * 58])


def row_line(name: str, value: float | list[float], form: str) -> str:
    """A figure in its column; several, such as those of successive frames, one after another."""
    if isinstance(value, list):
        return f"{name:<46}" + "".join(f"{each:>8{form}}" for each in value)
    return f"{name:<46}{value:>12{form}}"


def bound_rows(found: dict | None) -> list[tuple[str, float | None, str]]:
    """The bounds of a posterior with spread; none for codes that are a function of the data."""
    if found is None:
        return []
    titles = {"elbo": "ELBO, sampled", "multi_sample": f"bound of {found['samples']} samples"}
    return [*((f"{title}, bits/dim", found[name]["bits_per_dim"], ".4f") for name, title in titles.items()),
            ("KL to the prior, bits per example", found["kl_bits"], ".1f"),
            ("NMSE of drawn latents", found["nmse_drawn"], ".4f")]


def code_rows(codes: dict | None) -> list[tuple[str, float | None, str]]:
    """Use of the codebooks and bits of the codes; none for latents that are not codes."""
    if codes is None:
        return []
    return [
        (f"codes used, of {codes['num_codes']}", mean(codes["used"]), ".1f"),
        ("perplexity", mean(codes["perplexity"]), ".1f"),
        ("bits per code: unigram", mean(codes["unigram_bits"]), ".3f"),
        ("bits per code: bigram", mean(codes["bigram_bits"]), ".3f"),
        ("bits per code: learned prior", mean(codes["prior_bits"]), ".3f"),
        ("bits per code: learned prior, training codes", mean(codes["prior_bits_train"]), ".3f"),
    ]


def file_rows(found: dict | None) -> list[tuple[str, float | None, str]]:
    """The sizes of real files; none without a prior."""
    if found is None:
        return []
    return [(f"bytes per item, {found['items']} compressed in one file", found["bytes_per_item"], ".1f"),
            ("bytes of an item in a file of its own", found["bytes_alone"], ".1f")]


def shuffled_rows(found: dict | None) -> list[tuple[str, float | None, str]]:
    """The distortion with another example's latents, where it was measured."""
    if found is None:
        return []
    return [("distortion, shuffled latents, bits/dim", found["distortion_shuffled"], ".4f"),
            ("nats per example saved by its own latents", found["nats_saved"], ".2f")]


def each(values: Tensor) -> float | dict:
    """One codebook: its figure. Several: each, and their mean."""
    values = values.double()
    return float(values[0]) if len(values) == 1 else {"each": values.tolist(), "mean": float(values.mean())}


def mean(figure: float | dict | None) -> float | None:
    """A figure over all codebooks: the inverse of `each`."""
    return figure["mean"] if isinstance(figure, dict) else figure


def rounded(value):
    """Six significant digits throughout: more are not reproducible from machine to machine."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value
