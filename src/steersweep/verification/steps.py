"""COSMIC step by step: the paper as reported, the official function, ours; and what differs.

Paper column: as the method is described by those who report it. The paper itself was not at hand,
so no section or equation numbers are given.
"""

from __future__ import annotations

from steersweep.verification.outcome import Step

STEPS = (
    Step(
        "Candidates: mean harmful minus mean harmless block input, float64, not normalised",
        "at the last five positions",
        "generate_directions, get_mean_diff: at every post-instruction position",
        "cosmic_scoring.find_candidates; paper's: positions='last-5'",
    ),
    Step(
        "Layers compared: least similar class means at the last training token",
        "the lowest 10 %",
        "compute_and_save_similarity: argsort, first int(0.10 L)",
        "cosmic_scoring.layer_similarity; at least one layer",
    ),
    Step(
        "The last layer is read after the final norm",
        "not reported",
        "compute_and_save_similarity: last entry of hidden_states",
        "passes.run_edits",
    ),
    Step(
        "Baselines: unit mean over validation prompts and compared layers",
        "same",
        "get_baseline_vector",
        "cosmic_scoring.baseline",
    ),
    Step(
        "Ablation, linear: remove the component along the candidate",
        "at the candidate's layer",
        "get_all_linear_direction_ablation_hooks: at every block input, attention and MLP output",
        "Edit.everywhere(r); paper's: ablate='layer'",
    ),
    Step(
        "Ablation, affine: put the harmless mean's component in its place",
        "at the candidate's layer",
        "get_affine_direction_ablation_input_pre_hook: at one block input",
        "Edit.affine(r, reference, 0)",
    ),
    Step(
        "Addition of the candidate at its own length",
        "at the candidate's layer",
        "get_linear_activation_addition_input_pre_hook: at one block input; "
        "get_affine_activation_addition_input_pre_hook: there, after the ablation",
        "cosmic_scoring.candidate_edits",
    ),
    Step(
        "Where an edited block input is read",
        "not reported",
        "linear hooks edit in place, so after the edit; affine hooks copy, so before it",
        "CosmicRules.read_before_edit",
    ),
    Step(
        "S_comply and S_refuse: cosine of the edited mean with the other class's baseline",
        "same",
        "get_refusal_similarity: refusal_score and steering_score",
        "cosmic_scoring.Scorer: comply and refuse",
    ),
    Step(
        "KL filter: next-token KL of ablation on harmless prompts at most 0.1 nats",
        "same",
        "select_direction with get_last_position_logits and kl_div_fn",
        "candidates.next_token_kl, cosmic.select",
    ),
    Step(
        "Depth filter: no layer from int(0.8 L) on",
        "last 20 % excluded",
        "filter_fn",
        "candidates.eligible_layers",
    ),
    Step(
        "Median rule: at position -1 drop layers deeper than both lower medians of the other "
        "positions' best layers",
        "not reported",
        "select_direction",
        "cosmic.select; not applied with a single position",
    ),
    Step(
        "Choice: largest S_comply + S_refuse; ties to the earlier position, then lower layer",
        "same",
        "select_direction",
        "cosmic.select",
    ),
)

DIFFERENCES = (
    "At least one layer is compared where int(0.10 L) is none (models below ten layers); the "
    "official code fails there. Named in the result's notes.",
    "Candidates shorter than 1e-6 are dropped: at layer 0 a template token is the same in every "
    "prompt. The official code keeps them.",
    "With one post-instruction position the median rule is skipped, and the notes say so; the "
    "official code drops every candidate.",
    "Padding is by batch, and passes resume from stored residual streams: the same numbers within "
    "rounding, as the comparison shows. The comparison runs without the first two differences.",
)
