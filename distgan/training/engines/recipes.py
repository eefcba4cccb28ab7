"""Build each engine of `config.registry.ENGINES` from a Trial. All ranks call these, and all decide alike."""

from collections.abc import Iterator
from contextlib import contextmanager

from distgan.training.engines.compiling import uncompile
from distgan.training.engines.engine import Engine, Trial
from distgan.training.engines.graphs import Graphs
from distgan.training.engines.selection import FIRST_BLOCK_S, EngineUnavailable, compiling_pays
from distgan.training.losses import penalty_weight


def build_eager(trial: Trial) -> Engine:
    """Return eager steps."""
    return trial.eager_engine("as requested")


def build_compiled(trial: Trial) -> Engine:
    """Return eager steps through compiled networks. Raises EngineUnavailable."""
    trial.check_supported()
    trial.compile()
    trial.check("compile", trial.take)
    return trial.engine("compile", "as requested")


def build_fastest(trial: Trial) -> Engine:
    """Return what a race of one second shows to be the faster on a GPU, eager or graph.

    Raises EngineUnavailable where a run that a graph could take can't be captured.
    """
    if not trial.can_capture:
        return trial.eager_engine("on a CPU compiling takes long and gains nothing")
    if reason := trial.unsupported_reason():
        return trial.eager_engine(f"no graph can take the steps: {reason}")
    graphs = _checked_graphs(trial, "graph")
    with _released_on_failure(graphs):
        eager_s, graph_s = trial.race("eager", trial.take), trial.race("graph", graphs.advance)
    if eager_s < graph_s:
        graphs.release()
        return trial.eager_engine(f"the faster one: {_us(eager_s)} per step, graph {_us(graph_s)}")
    why = f"the faster one: {_us(graph_s)} per step, eager {_us(eager_s)}"
    return _compiled_where_it_pays(trial, graphs, graph_s, why)


def build_graph(trial: Trial) -> Engine:
    """Return graphs of the steps, compiled inside where that pays. Raises EngineUnavailable."""
    trial.check_supported()
    graphs = _checked_graphs(trial, "graph")
    with _released_on_failure(graphs):
        graph_s = trial.race("graph", graphs.advance)
    return _compiled_where_it_pays(trial, graphs, graph_s, f"as requested; {_us(graph_s)} per step")


def build_graph_compiled(trial: Trial) -> Engine:
    """Return graphs of steps through compiled networks; where these fail, graphs without. Raises EngineUnavailable."""
    trial.check_supported()
    try:
        trial.compile()
        return trial.engine("graph-compiled", "as requested", _checked_graphs(trial, "graph-compiled"))
    except EngineUnavailable as error:
        uncompile(trial.gan)
        why = f"graph-compiled was not taken: {error}"
        return trial.engine("graph", why, _checked_graphs(trial, "graph"), is_fallback=True)


def _checked_graphs(trial: Trial, name: str) -> Graphs:
    """Return graphs whose steps are the eager ones. Raises EngineUnavailable."""
    graphs = trial.capture()
    with _released_on_failure(graphs):
        trial.check(name, graphs.advance)
    return graphs


@contextmanager
def _released_on_failure(graphs: Graphs) -> Iterator[None]:
    """Release graphs that are not used after all: NCCL does not end while one is alive."""
    try:
        yield
    except EngineUnavailable:
        graphs.release()
        raise


def _compiled_where_it_pays(trial: Trial, plain: Graphs, plain_s: float, why: str) -> Engine:
    """Return the plain graphs, or those of compiled networks where the rest of the run is long enough to pay for them.

    The smallest block is compiled first: by its time it is estimated what the others take.
    """

    def stay(reason: str) -> Engine:
        uncompile(trial.gan)
        return trial.engine("graph", f"{why}; not compiled inside: {reason}", plain)

    if penalty_weight(trial.config.optim):
        return stay("the penalty needs a second derivative, which torch.compile lacks")
    pays, words = compiling_pays(trial.steps_left, plain_s, FIRST_BLOCK_S)
    if not pays:
        return stay(words)
    try:
        pays, words = compiling_pays(trial.steps_left, plain_s, trial.compile_smallest())
        if not pays:
            return stay(f"{words}, by the time that its smallest block took")
        trial.compile()
        graphs = _checked_graphs(trial, "graph-compiled")
        with _released_on_failure(graphs):
            compiled_s = trial.race("graph-compiled", graphs.advance)
    except EngineUnavailable as error:
        return stay(str(error))
    if compiled_s < plain_s:
        plain.release()
        return trial.engine("graph-compiled", f"{why}, compiled inside {_us(compiled_s)}", graphs)
    graphs.release()
    return stay(f"no faster, {_us(compiled_s)} per step")


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} microseconds"
