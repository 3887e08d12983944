"""The cells that a sweep of one model consists of; estimates and jobs both count these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steersweep.methods.method import METHODS
from steersweep.run.condition import Borrowed, LayerChoice, Strength
from steersweep.run.label import RANDOM, UNSTEERED, Label
from steersweep.search.search import STRENGTHS

LADDER = tuple(Strength("relative", value) for value in STRENGTHS)  # of which a window is a part


@dataclass(frozen=True)
class Cell:
    """One condition to be, of a model that need not be there.

    Attributes:
        label: what it is called: method, role, and where its direction comes from.
        layer: where steering starts; None where nothing is steered or a method chooses.
        strength: how strongly; None where nothing is steered.
        prompts_of: the method whose extraction prompts it rests on, or None.
        borrowed: the direction found elsewhere that it tries, or None.
    """

    label: Label
    layer: LayerChoice | None = None
    strength: Strength | None = None
    prompts_of: str | None = None
    borrowed: Borrowed | None = None


def expand(
    methods: Sequence[str],
    layers: Sequence[LayerChoice],
    strengths: Sequence[Strength],
    borrowed: Sequence[Borrowed],
    n_layers: int,
) -> Iterator[Cell]:
    """Every cell of a sweep, each once.

    Unsteered first; then every layer and strength with every method and the random control; then
    directions found elsewhere; then the layers that methods choose themselves, with a random
    control each.

    Args:
        methods: ways to find a direction.
        layers: where steering starts; shares of a shallow model may fall on one layer.
        strengths: how strongly to steer.
        borrowed: directions found elsewhere, to be tried at every strength.
        n_layers: of the model.

    Raises:
        InputError: a layer lies outside the model.
    """
    strengths = tuple(dict.fromkeys(strengths))
    yield Cell(UNSTEERED)
    for choice in distinct_layers(layers, n_layers):
        for strength in strengths:
            for method in methods:
                yield Cell(Label(method), choice, strength, method)
            yield Cell(RANDOM, choice, strength)
    for found in borrowed:
        for strength in strengths:
            yield Cell(found.label, LayerChoice(str(found.layer)), strength, borrowed=found)
    for method in methods:
        if not METHODS.get(method).chooses_layer:
            continue
        for strength in strengths:
            chosen = Label(method, chose_layer=True)
            for label in (chosen, chosen.random_control):
                yield Cell(label, None, strength, method)


def distinct_layers(choices: Sequence[LayerChoice], n_layers: int) -> tuple[LayerChoice, ...]:
    """Choices of different layers, the first of each.

    Raises:
        InputError: a layer lies outside the model.
    """
    found: dict[int, LayerChoice] = {}
    for choice in choices:
        found.setdefault(choice.index(n_layers), choice)
    return tuple(found.values())
