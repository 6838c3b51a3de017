"""BentoML: a service with an API whose parameters are the columns."""

import bentoml

from benchmarks.serving_lib.apps.champion import Champion


@bentoml.service(workers=2)
class Flights:
    def __init__(self) -> None:
        self.champion = Champion()

    @bentoml.api
    async def predict(
        self, distance: int, sched_dep_time: int, sched_arr_time: int, carrier: str, origin: str, dest: str
    ) -> dict[str, float]:
        row = {
            "distance": distance,
            "sched_dep_time": sched_dep_time,
            "sched_arr_time": sched_arr_time,
            "carrier": carrier,
            "origin": origin,
            "dest": dest,
        }
        return {"prediction": self.champion.minutes(row)}
