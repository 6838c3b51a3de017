"""Runs in an environment of its own: river's detectors, with their defaults, over streams of 0 and 1.

python river_child.py STREAMS.npy ANSWER.json: for every detector and stream the positions of its alarms.
"""

import json
import sys
from pathlib import Path

import numpy as np
from river import drift

MAKERS = {
    "river ADWIN": drift.ADWIN,
    "river Page–Hinkley": drift.PageHinkley,
    "river DDM": drift.binary.DDM,
}


def main() -> None:
    streams = np.load(sys.argv[1])
    found = {}
    for name, make in MAKERS.items():
        found[name] = []
        for stream in streams.tolist():
            detector, alarms = make(), []
            for at, value in enumerate(stream):
                detector.update(value)
                if detector.drift_detected:
                    alarms.append(at)
            found[name].append(alarms)
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
