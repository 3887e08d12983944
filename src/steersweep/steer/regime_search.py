"""How rows of a model may share a batch, found out by looking at the model itself.

What an architecture's cache, padding and layers allow is not read from its name. A few rows,
steered in different ways, run both ways: as plain passes of one prompt at a time, without a cache,
and as this package runs them. The fastest way that gives the plain numbers is taken; a model for
which none does is refused before anything is computed with it.
"""

from __future__ import annotations

from dataclasses import replace

from steersweep.core.errors import InputError, NumericalError, SteersweepError
from steersweep.core.precision_labels import logit_tolerance
from steersweep.core.printing import first_line
from steersweep.model.chat_model import ChatModel
from steersweep.model.kv_cache import keeps_states
from steersweep.model.memory import is_out_of_memory
from steersweep.steer.found import looked_once
from steersweep.steer.probe import Probe
from steersweep.steer.regime import Regime

# The fastest first.
_REGIMES = (
    Regime(),
    Regime(resumes=False),
    Regime(buffered=False, resumes=False),
    Regime(pads=False, resumes=False),
    Regime(buffered=False, pads=False, resumes=False),
    Regime(buffered=False, pads=False, leaves=False, resumes=False),
    Regime(buffered=False, pads=False, leaves=False, shares=False, resumes=False),
)


def regime_of(chat: ChatModel) -> Regime:
    """What a model allows; found out once.

    Raises:
        InputError: no way to run rows gives the numbers of plain passes.
    """
    return looked_once(chat, "regime", Regime, _looked)


def _looked(chat: ChatModel) -> Regime | InputError:
    name = type(chat.model).__name__
    refused = f"{chat.source.model_id}: steered rows cannot be run right in a {name}: "
    try:
        probe = Probe(chat)
        recurrent = keeps_states(chat.model.config.get_text_config())
    except NumericalError:
        raise
    except SteersweepError as error:
        return InputError(refused + str(error))
    except Exception as error:  # a network says in many ways that it wants other inputs
        if is_out_of_memory(error):
            raise
        return InputError(f"{refused}a plain pass fails ({first_line(error)})")
    reason = ""
    for regime in _REGIMES:
        if recurrent and regime.pads:
            continue
        try:
            difference = probe.difference(regime)
        except NumericalError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = reason or first_line(error)
            continue
        if difference <= logit_tolerance(chat.precision):
            return _with_passes(probe, regime)
        reason = f"their logits differ from one prompt's alone by {difference:.1%}"
    return InputError(refused + reason)


def _with_passes(probe: Probe, regime: Regime) -> Regime:
    """What passes of prompts may leave out, added to a regime that is right for rows."""
    if not regime.resumes:  # rows of this kind were not tried with it
        other = replace(regime, resumes=True)
        rows_resume = probe.works(lambda: [probe.difference(other)])
    return Regime(
        regime.buffered,
        regime.pads,
        regime.leaves,
        regime.shares,
        resumes=(regime.resumes or rows_resume) and probe.works(probe.resumed),
        continues=regime.buffered and regime.pads and probe.continues,
        narrows=probe.works(probe.narrowed),
    )
