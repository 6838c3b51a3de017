"""Monitors of a model in production: drift, performance and data quality, from counts that replicas contribute.

    layout = layout_of_profile(snapshot.profile(), columns)          which cells rows are counted in
    reference = Reference.of_counts(Counts.by_day(layout, rows, times))
    detector = DriftDetector(reference, mean_windows=1000)
    detector.update(Counts.by_day(layout, todays_rows, times))       on any replica; merge first, or add bit by bit

Everything is NumPy on sums that merge in any order; memory does not grow with rows. Nothing here knows of Ray.
"""

from raymlops.monitoring.attribution import CellShare, Moved
from raymlops.monitoring.building import layout_of_profile, layout_of_rows
from raymlops.monitoring.calibration import Calibration, expected_metrics
from raymlops.monitoring.cells import CategoryCells, Layout, NumericCells
from raymlops.monitoring.counts import Counts
from raymlops.monitoring.display import distances
from raymlops.monitoring.drift import DriftDetector, DriftFinding
from raymlops.monitoring.loss_model import LossModel
from raymlops.monitoring.losses import LossDays, LossLevels, LossSums, clipped_error, slice_masks
from raymlops.monitoring.performance import LossDetector, LossFinding, SliceLoss
from raymlops.monitoring.quality import QualityCounts, QualityLimits, quality_violations, volume_limits
from raymlops.monitoring.reference import Reference

__all__ = [
    "Calibration",
    "CategoryCells",
    "CellShare",
    "Counts",
    "DriftDetector",
    "DriftFinding",
    "Layout",
    "LossDays",
    "LossDetector",
    "LossFinding",
    "LossLevels",
    "LossModel",
    "LossSums",
    "Moved",
    "NumericCells",
    "QualityCounts",
    "QualityLimits",
    "Reference",
    "SliceLoss",
    "clipped_error",
    "distances",
    "expected_metrics",
    "layout_of_profile",
    "layout_of_rows",
    "quality_violations",
    "slice_masks",
    "volume_limits",
]
