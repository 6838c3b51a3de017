"""The endpoint as Serve applications: `import_path: raymlops.serving.app:build` in YAML, and the candidates beside it.

No postponed annotations here: Serve looks at the type of the builder's argument to validate it.
"""

from dataclasses import asdict
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from raymlops.serving.args import EndpointArgs
from raymlops.serving.candidate import Candidate
from raymlops.serving.document import ModelRef, candidate_app
from raymlops.serving.ingress import Ingress

INGRESS, CANDIDATE = "ingress", "candidate"
RETRY_AFTER_SECONDS = 1
QUIET = {"enable_access_log": False, "log_level": "WARNING"}
"""One log line per request would cost more than the model; the prediction log has them all."""
SHUTDOWN_SECONDS = 10.0


def build(args: EndpointArgs) -> Application:
    """The endpoint. Stages the registry's champion, which counts only where no rollout has chosen another since.

    Raises RaymlopsError when there is no champion, or the registry or the store cannot be reached.
    """
    return application(args, args.stage_champion())


def application(args: EndpointArgs, champion: ModelRef) -> Application:
    """The endpoint with a version that is staged already."""
    config = args.serving
    scaling: dict[str, Any] = {"num_replicas": config.replicas}
    if config.autoscaling is not None:
        scaling = {"autoscaling_config": config.autoscaling.model_dump(), "num_replicas": None}
    deployment = serve.deployment(
        name=INGRESS,
        max_ongoing_requests=config.limits.ongoing,
        max_queued_requests=config.limits.queued,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_SECONDS),
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
        graceful_shutdown_timeout_s=SHUTDOWN_SECONDS,
        max_surge_percent=100,  # a changed endpoint starts beside the old one: nobody waits
        logging_config=QUIET,
        **scaling,
    )(Ingress)
    return deployment.bind(args.plain(), asdict(champion))


def candidate_target(args: EndpointArgs, model: ModelRef) -> serve.RunTarget:
    """A staged version as an application of its own, without a route."""
    config = args.serving
    deployment = serve.deployment(
        name=CANDIDATE,
        num_replicas=config.candidate.replicas,
        max_ongoing_requests=config.limits.ongoing,
        ray_actor_options={"num_cpus": config.candidate.cpus, "num_gpus": config.candidate.gpus},
        max_constructor_retry_count=2,
        health_check_period_s=2,
        health_check_timeout_s=5,
        graceful_shutdown_timeout_s=SHUTDOWN_SECONDS,
        logging_config=QUIET,
    )(Candidate)
    bound = deployment.bind(args.name, asdict(model), args.storage, config.model_dump(mode="json"))
    return serve.RunTarget(bound, name=candidate_app(args.name, model), route_prefix=None)
