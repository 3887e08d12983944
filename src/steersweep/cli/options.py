"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steersweep.effects.effect import EFFECTS
from steersweep.methods.method import METHODS

ModelArgument = Annotated[
    str, typer.Argument(help="A hub id, a local folder, a GGUF file, or lab:NAME.", metavar="MODEL")
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="auto, fp32, bf16, fp16, int8 or int4 (NF4), int8-dynamic (CPU). auto: fp32 on a CPU, "
        "16 bits on a GPU. Of sweep and find also fastest: on a CPU that of fp32, bf16 and "
        "int8-dynamic which some seconds of measuring find fastest."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
RevisionOption = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
RemoteCodeOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let code from the model's repository run.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PlanModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--models", help="A model of the plan found elsewhere: NAME=FOLDER, FILE.gguf or a hub id."
    ),
]
PricesOption = Annotated[
    Path | None,
    typer.Option(
        help="YAML file of prices, GPU: USD per hour, over the plan's; or `catalog`, for the "
        "catalog's instead of the plan's."
    ),
]
JUDGES = (
    "default, keywords-v3, arditi-prefixes, classifier:MODEL[#LABEL], llm:MODEL[#FORMAT], "
    "server:URL#MODEL[#FORMAT]; or your own, FILE.py:Class."
)
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress.")]
PromptsOption = Annotated[
    str,
    typer.Option(
        help="Test prompts: a shipped set; a file (.txt, .json, .jsonl, .csv, .tsv, .parquet), "
        "with a column as FILE:COLUMN; or a data set, hf:OWNER/NAME:SPLIT:COLUMN."
    ),
]
ExtractionOption = Annotated[
    str | None,
    typer.Option(
        help="Extraction prompts for all methods: a shipped set, or a file or data set of both "
        "classes [default: those of each method]."
    ),
]
_METHODS = (
    f"How directions are found: {METHODS}; or your own, package.module:Class or FILE.py:Class. "
    "Several with commas"
)
MethodsOption = Annotated[str, typer.Option(help=f"{_METHODS}.")]
MethodsBesideOption = Annotated[
    str | None, typer.Option("--methods", help=f"{_METHODS} [default: dim; none but --directions].")
]
DirectionsOption = Annotated[
    str,
    typer.Option(
        help="Files with directions, of extract or other tools, tried like those of a method. "
        "Several with commas."
    ),
]
EffectsOption = Annotated[
    str,
    typer.Option(
        "--effects",
        help=f"What steering costs the model: {EFFECTS}; all, or none; or your own, FILE.py:Class. "
        "Several with commas.",
    ),
]
TextOption = Annotated[
    str | None,
    typer.Option(
        "--text", help="Texts for the effect text [default: some that come with the package]."
    ),
]
ChoicesOption = Annotated[
    str | None,
    typer.Option(
        "--choices",
        help="Questions for the effect choices: .jsonl, .csv or .parquet, such as ARC or MMLU "
        "[default: easy ones that come with the package].",
    ),
]
EffectItemsOption = Annotated[
    str,
    typer.Option(
        "--effect-items",
        help="How much effects look at: a sample of each set, for about a quarter of the time of "
        "a sweep of 120 prompts; or all of it.",
    ),
]
MismatchOption = Annotated[
    bool,
    typer.Option("--accept-mismatch", help="Go on whatever is found wrong with a model."),
]
EngineOption = Annotated[str, typer.Option(help="Where jobs run: local, ray or modal.")]
BudgetOption = Annotated[float | None, typer.Option(help="Hard stop in USD.")]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Ray: a cluster [default: one on this machine].")
]
RayStorageOption = Annotated[
    str | None,
    typer.Option(help="Ray: a path or URL for results if machines do not share --out."),
]
TrackOption = Annotated[
    str | None, typer.Option(help="Tell a tracker: none, wandb or trackio [default: the plan's].")
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="W&B: write runs here and send nothing.")
]
StopLoopsOption = Annotated[
    bool,
    typer.Option(help="End an answer where it is stuck in a loop, which the judge calls broken."),
]
SpecialTokensOption = Annotated[
    str,
    typer.Option(
        help="What a special token becomes that a prompt spells (<|im_end|>): text, or tokens."
    ),
]
TemplateOption = Annotated[
    str,
    typer.Option(
        "--template-options",
        help="Variables of the chat template: enable_thinking=false,reasoning_effort=low.",
    ),
]
SystemOption = Annotated[
    str,
    typer.Option(help="A system prompt before every prompt: a text, or a file that holds it."),
]
TemperatureOption = Annotated[
    float, typer.Option(help="Sample answers at this temperature; 0: greedy answers.")
]
TopPOption = Annotated[
    float,
    typer.Option("--top-p", help="Of sampling: only the likeliest tokens up to this probability."),
]
TopKOption = Annotated[
    int, typer.Option("--top-k", help="Of sampling: only so many of the likeliest tokens; 0: all.")
]
RepeatsOption = Annotated[
    int | None,
    typer.Option(help="Of sampling: answers to each prompt [default: as the prompts say]."),
]
OperationOption = Annotated[
    str,
    typer.Option(
        help="What is done with a direction: add; remove the component along it, which has no "
        "strength; affine: set the component to that of harmless prompts, then add."
    ),
]
SiteOption = Annotated[
    str, typer.Option(help="resid_post: after each layer; resid_pre: before it.")
]
SpanOption = Annotated[str, typer.Option(help="one layer, or each from that one to-end.")]
PositionsOption = Annotated[
    str, typer.Option(help="all tokens; those of the prompt; its last one; new ones.")
]
RowsOption = Annotated[int, typer.Option(help="Most rows of a batch; lower it for memory.")]


def split_files(text: str) -> list[str]:
    """Files separated by commas."""
    return [part.strip() for part in text.split(",")] if text else []
