"""Plain FastAPI: a pydantic model of the row, an asynchronous path operation, the model in every worker."""

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving_lib.apps.champion import Champion

app, champion = FastAPI(), Champion()


class Flight(BaseModel):
    distance: int
    sched_dep_time: int
    sched_arr_time: int
    carrier: str
    origin: str
    dest: str


class Answer(BaseModel):
    prediction: float


@app.post("/predict")
async def predict(flight: Flight) -> Answer:
    return Answer(prediction=champion.minutes(vars(flight)))
