"""Image quality."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distgan.evaluation.during_training import QualityMonitor
    from distgan.training.session import Session
    from distgan.utils.provenance import Startup


def build_monitor(session: "Session", startup: "Startup") -> "QualityMonitor | None":
    """Return the evaluation during training, None for a run without one."""
    if not session.config.run.evaluates_quality:
        return None
    from distgan.evaluation.during_training import QualityMonitor  # imports scipy: seconds

    return QualityMonitor(session, startup)
