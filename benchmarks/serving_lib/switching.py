"""`raymlops serve` whose prediction log is on and off in turn: `python -m benchmarks.serving_lib.switching serve …`.

Two servers, or two minutes of one machine, differ by more than the log takes. So both sides of the comparison are one
process and follow each other within seconds.
"""

from __future__ import annotations

from raymlops.cli import main
from raymlops.serving import launch
from raymlops.serving.args import EndpointArgs
from raymlops.serving.document import ModelRef

RESULT = "RAYMLOPS_BENCHMARK_SWITCHING"
"""Environment variable with the file for the result: requests/s with and without the log, a line for every couple."""
RUN_IN_SECONDS, TURN_SECONDS = 0.6, 1.0
"""Of a turn: what does not count, and what does. The log is written twice a second, so that what was logged in a turn
is written before anything counts that follows; and a turn that counts has two writings, of its own or the run-in's."""
COUPLE_SECONDS = 2 * (RUN_IN_SECONDS + TURN_SECONDS)


def deploy(args: EndpointArgs, champion: ModelRef) -> None:
    """As `launch` does it, with the other ingress; imported here, as Ray must be started first."""
    from benchmarks.serving_lib.switching_ingress import SwitchingIngress
    from raymlops.serving import app

    app.Ingress = SwitchingIngress
    as_ever(args, champion)


as_ever = launch._deploy
if __name__ == "__main__":
    launch._deploy = deploy
    main()
