"""What a study deploys to Modal: an app per phase with a function per model, and one that leads.

Functions are defined from a plan, so they are serialized; what they call is imported in the
container.
"""

from __future__ import annotations

from typing import Any

from steersweep.engines.modal.functions import Deployment
from steersweep.study.away.apps import remote_functions, study_app_name
from steersweep.study.away.leader import study_there
from steersweep.study.plan import Plan

STUDY_TIMEOUT_S = 24 * 3600
STUDY_FUNCTION = "study"


def define_apps(plan: Plan) -> dict[str, Any]:
    """The `modal.App`s of a plan by name, ready to be deployed; nothing is sent.

    Raises:
        InputError: Modal is not installed.
    """
    deployment = Deployment(plan.name, plan.modal.secrets)
    apps: dict[str, Any] = {}
    for function in remote_functions(plan):
        if function.app not in apps:
            apps[function.app] = deployment.app(function.app)
        deployment.add_work(apps[function.app], function)
    name = study_app_name(plan)
    apps[name] = deployment.app(name)
    deployment.add_leader(apps[name], STUDY_FUNCTION, study_there, STUDY_TIMEOUT_S)
    return apps
