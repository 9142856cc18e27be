"""`sw-audit locate`: where a model's super weights are, from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from sw_audit.checkpoint.folder import inspect_checkpoint
from sw_audit.cli.index import check_own_index, update_own_index
from sw_audit.cli.options import AsJson, AskModel, Model
from sw_audit.cli.printing import Output, make_table, print_json, print_line
from sw_audit.cli.progress import show_progress
from sw_audit.errors import InputError
from sw_audit.locate.locator import open_for_locating
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Intervention, Policy
from sw_audit.policy.reading import overlay_policy, read_policy
from sw_audit.record.critical import CriticalScalar, CriticalSearch, Effect
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Depth, Location, SuperActivation
from sw_audit.runner.critical import search_model
from sw_audit.runner.single import locate_model


def locate(
    model: Model,
    *,
    as_json: AsJson = False,
    ask: AskModel,
    causal: Annotated[
        bool,
        typer.Option("--causal", help="Search all parameters for the scalars that matter; takes about a minute."),
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Policy whose [corpus] and [critical] say how --causal searches."),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text for --causal: a file, a data set, english, specimen, or own: what the model itself writes.",
        ),
    ] = None,
    windows: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many windows of that text.", min=1)
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(metavar="N", help="How many scalars --causal tries, of highest gradient first.")
    ] = None,
    depth: Annotated[
        Literal["full", "early"],
        typer.Option(help="early reads only the first layers: quicker, but less is known of what persists."),
    ] = "full",
    digest: Annotated[
        bool, typer.Option("--digest", help="Digest the files too, which reads all of them; --update-index does.")
    ] = False,
    update_index: Annotated[
        Path | None,
        typer.Option(
            "--update-index",
            metavar="FILE",
            help="Add the finding, with how it was made, to your own index file; the same one only once.",
        ),
    ] = None,
) -> None:
    """Locate super weights, without any data. Any outcome is an answer: the exit code is 0.

    With --causal, search all parameters for the scalars that matter: norm gains, biases, entries of the embedding
    and the head, matrices, experts. One backward pass ranks them, zeroing decides.

    For example:

      sw-audit locate specimen

      sw-audit locate ./out/llama-w4 --json > location.json

      sw-audit locate ./out/llama --update-index my-index.toml

      sw-audit locate ./larger-than-memory --depth early

      sw-audit locate ./out/llama --causal --corpus wikitext.txt
    """
    if update_index is not None:
        check_own_index(update_index)
    asked = {"--policy": policy, "--corpus": corpus, "--windows": windows, "--candidates": candidates}
    if not causal and (given := [name for name, value in asked.items() if value is not None]):
        remedy = "add --causal, or leave it out: locating needs no text"
        raise InputError(given[0], "it says how scalars are searched for, and nothing is", remedy)
    search = None
    if causal:
        if depth == "early":
            raise InputError("--causal --depth early", "what matters shows at the end", "leave --depth out")
        below = Policy() if policy is None else read_policy(policy)
        chosen = _settle_bos(ask(model), below)
        tried = None if candidates is None else {"candidates": candidates}
        asking = overlay_policy(below, models=[chosen], corpus=corpus, windows=windows, critical=tried)
        inspect_checkpoint(chosen)
        with show_progress() as progress:
            identity, location, search = search_model(chosen, asking, progress)
    else:
        identity, location = locate_quietly(ask(model), depth, digest=digest or update_index is not None)
    if update_index is not None:
        print_line(update_own_index(update_index, identity, location, search), err=True)
    if as_json:
        print_json(describe(identity, location, search))
    else:
        print_location(identity, location, search)


def _settle_bos(model: ModelPolicy, policy: Policy) -> ModelPolicy:
    """Return the model with BOS as the policy's text has it, unless an option says so."""
    return model if model.bos != "auto" else model.model_copy(update={"bos": policy.corpus.bos})


def locate_quietly(chosen: ModelPolicy, depth: Depth, *, digest: bool) -> tuple[ModelIdentity, Location]:
    """Locate with nothing but progress on standard error."""
    inspect_checkpoint(chosen)
    with show_progress() as progress:
        progress(f"opening {chosen.source}", 0, 1)
        checkpoint = open_for_locating(chosen, depth=depth, digest=digest, progress=progress)
        return checkpoint.identity, locate_model(checkpoint, depth)


def describe(identity: ModelIdentity, location: Location, search: CriticalSearch | None = None) -> dict[str, Any]:
    """Put a location, and a search for all scalars that matter, into the JSON object that other programs read."""
    content, model = location.model_dump(mode="json"), identity.model_dump(mode="json")
    weight_keys = ("parameter", "layer", "row", "column", "expert", "value", "share", "impact")
    return {
        "schema": 1,
        "model": {
            **{key: model[key] for key in ("source", "family", "layers")},
            "digest": identity.digest or None,
            **{key: model[key] for key in ("revision", "dtype")},
        },
        **{key: content[key] for key in ("depth", "layers_seen", "outcome", "because")},
        "super_weights": [{key: weight[key] for key in weight_keys} for weight in content["super_weights"]],
        **({} if search is None else _describe_search(search)),
        **{
            key: content[key]
            for key in ("weight_norm_prediction", "super_activations", "earlier_stages", "rotation", "candidates")
        },
        "prompt": {"text": content["prompt"], "token_ids": content["token_ids"], "bos": content["bos"]},
        **{key: content[key] for key in ("prompts", "other_start")},
        "trace": content["trace"],
    }


def _describe_search(search: CriticalSearch) -> dict[str, Any]:
    told = ("text", "own_text", "window", "windows", "minimum_ratio", "confidence", "ranked", "candidates")
    return {
        "critical_search": search.model_dump(mode="json", include={*told, "questions", "notes"}),
        "critical_scalars": [
            {
                **scalar.address.model_dump(mode="json"),
                "value": scalar.value,
                **_describe_effect(scalar.effect),
                "kind": scalar.kind,
                "set": scalar.set,
            }
            for scalar in search.critical
        ],
        "critical_sets": [
            {
                "kind": held.kind,
                "members": [member.model_dump(mode="json") for member in held.members],
                **_describe_effect(held.effect),
            }
            for held in search.sets
        ],
    }


def _describe_effect(effect: Effect | None) -> dict[str, float | None]:
    if effect is None:
        return dict.fromkeys(("perplexity_ratio", "low", "high"))
    return {"perplexity_ratio": effect.ratio, "low": effect.low, "high": effect.high}


def print_location(identity: ModelIdentity, location: Location, search: CriticalSearch | None = None) -> None:
    """Print a location for people, and a search for all scalars that matter."""
    output = Output()

    def show(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        if rows:
            output.print(make_table(head, rows, title=title, title_justify="left"))

    output.print_lines(f"{identity.source}: {location.outcome}", style="bold")
    output.print_lines(f"{identity.family}, {identity.layers} layers, {location.because}")
    if location.rotation is not None:
        output.print_lines(str(location.rotation))
    if location.depth == "early":
        seen = location.layers_seen
        output.print_lines(f"only the first {seen} layers were read: what persists beyond them is not known")
    show(
        "super weights",
        ("parameter", "row", "column", "value", "share", "impact"),
        [
            (
                weight.parameter,
                str(weight.row),
                str(weight.column),
                f"{weight.value:.6g}",
                f"{weight.share:.4f}",
                weight.impact,
            )
            for weight in location.super_weights
        ],
    )
    if search is not None:
        print_search(output, search)
    for remark in filter(None, (location.impacts, location.agreement, location.beginning)):
        output.print_lines(remark)
    if location.weight_norm_prediction is not None:
        output.print_lines(f"second opinion: {location.weight_norm_prediction.because}")
        show(
            "the weights alone, without a forward pass",
            ("parameter", "row", "row's rank", "over median", "column", "its rank", "share", "agrees"),
            [
                (
                    weight.parameter,
                    str(weight.row),
                    f"{weight.row_rank} of {weight.rows}",
                    "-" if weight.row_ratio is None else f"{weight.row_ratio:.3g}",
                    str(weight.column),
                    f"{weight.column_rank} of {weight.columns}",
                    "-" if weight.share is None else f"{weight.share:.3f}",
                    "yes" if weight.agrees else "no",
                )
                for weight in location.weight_norm_prediction.weights
            ],
        )
    show(
        "super activations",
        ("channel", "token", "value", "layers", "taken down", "left"),
        [_describe_activation(loud) for loud in location.super_activations],
    )
    show(
        "made before, taken down and made again",
        ("channel", "token", "value", "layers", "taken down", "left", "by (share)"),
        [
            (*_describe_activation(stage), ", ".join(f"{cause} ({cause.share:.2f})" for cause in stage.causes))
            for stage in location.earlier_stages
        ],
    )
    show(
        "looked at and turned down",
        ("layer", "row", "column", "output", "share", "because"),
        [
            (
                *(str(index) for index in (candidate.layer, candidate.row, candidate.column)),
                f"{candidate.output_value:.4g}",
                f"{candidate.share:.3f}",
                candidate.because,
            )
            for candidate in location.candidates
            if not candidate.accepted
        ],
    )


def print_search(output: Output, search: CriticalSearch) -> None:
    """Print which scalars matter, and the sets among them, counted from 1; addresses stay whole."""
    output.print_lines(search.summary)
    others = [one for one in get_args(Intervention) if any(one in scalar.others for scalar in search.critical)]
    if search.critical:
        head = ("scalar", "value", "zeroed", "interval", *others, "matters", "set", "rank", "located")
        rows = [_write_scalar(scalar, others) for scalar in search.critical]
        title = "scalars that matter: times the perplexity, by itself"
        output.print_whole(make_table(head, rows, title=title, title_justify="left"))
    if search.sets:
        sets = [
            (str(place), held.kind, *_write_effect(held.effect), ", ".join(map(str, held.members)))
            for place, held in enumerate(search.sets, 1)
        ]
        head = ("set", "kind", "zeroed", "interval", "scalars")
        output.print_whole(make_table(head, sets, title="sets, zeroed as one", title_justify="left"))
    if any(held.kind == "masks" for held in search.sets):
        output.print_lines(
            "what masks was zeroed with the located set: times the perplexity of that set by itself"
        )
    output.print_lines(*(f"note: {note}" for note in search.notes))


def _write_scalar(scalar: CriticalScalar, others: Sequence[Intervention]) -> tuple[str, ...]:
    return (
        str(scalar.address),
        f"{scalar.value:.6g}",
        *_write_effect(scalar.effect),
        *(_write_effect(scalar.others.get(one))[0] for one in others),
        str(scalar.kind),
        "-" if scalar.set is None else str(scalar.set + 1),
        "-" if scalar.rank is None else str(scalar.rank),
        "yes" if scalar.located else "-",
    )


def _write_effect(effect: Effect | None) -> tuple[str, str]:
    """Write a ratio and its interval; without an effect, what was not measured is a hyphen."""
    if effect is None:
        return "-", "-"
    ratio, low, high = (
        "not finite" if figure is None else f"{figure:.4g}" for figure in (effect.ratio, effect.low, effect.high)
    )
    return ratio, "-" if effect.low is None and effect.high is None else f"{low} to {high}"


def _describe_activation(loud: SuperActivation) -> tuple[str, ...]:
    gone = loud.taken_down
    return (
        str(loud.channel),
        str(loud.token),
        f"{loud.value:.6g}",
        f"{loud.first_layer} to {loud.last_layer}",
        "-" if gone is None else f"{gone.first_layer} to {gone.last_layer}",
        "-" if gone is None else f"{gone.left:.3f}",
    )
