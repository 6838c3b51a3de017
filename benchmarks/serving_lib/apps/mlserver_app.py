"""MLServer: a custom runtime as its guide writes it. One tensor per column in, one out."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving_lib.apps.champion import Champion


class Flights(MLModel):
    async def load(self) -> bool:
        self.champion = Champion()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = {
            given.name: StringCodec.decode_input(given) if given.datatype == "BYTES" else NumpyCodec.decode_input(given)
            for given in payload.inputs
        }
        rows = payload.inputs[0].shape[0]
        predictions = self.champion.package.predict_columns(columns, rows)["prediction"]
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("prediction", np.asarray(predictions))]
        )
