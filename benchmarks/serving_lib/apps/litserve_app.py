"""LitServe: an API that decodes, predicts and encodes, in as many workers as there are cores."""

import os
from typing import Any

import litserve

from benchmarks.serving_lib.apps.champion import Champion


class Flights(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.champion = Champion()

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def predict(self, row: dict[str, Any]) -> float:
        return self.champion.minutes(row)

    def encode_response(self, output: float) -> dict[str, float]:
        return {"prediction": output}


if __name__ == "__main__":
    server = litserve.LitServer(Flights(api_path="/predict"), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
