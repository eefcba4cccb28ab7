"""Each engine of `config.registry.ENGINES`, built by an EngineBuilder. All ranks call these and decide alike."""

from collections.abc import Iterator
from contextlib import contextmanager

from distgan.training.engines.compiling import uncompile
from distgan.training.engines.engine import Engine, EngineBuilder
from distgan.training.engines.graphs import Graphs
from distgan.training.engines.selection import FIRST_BLOCK_S, EngineUnavailable, estimate_compile_gain
from distgan.training.losses import penalty_weight


def build_eager(builder: EngineBuilder) -> Engine:
    """Return eager steps."""
    return builder.eager_engine("as requested")


def build_compiled(builder: EngineBuilder) -> Engine:
    """Return eager steps through compiled networks. Raises EngineUnavailable."""
    builder.check_supported()
    builder.compile()
    builder.check("compile", builder.advance)
    return builder.engine("compile", "as requested")


def build_fastest(builder: EngineBuilder) -> Engine:
    """Return on a GPU the faster of eager and graph, timed for a second in total; else eager.

    Raises EngineUnavailable if a capture fails.
    """
    if not builder.can_capture:
        return builder.eager_engine("torch.compile does not pay off on a CPU")
    if reason := builder.unsupported_reason():
        return builder.eager_engine(f"CUDA graphs are not supported here: {reason}")
    graphs = _checked_graphs(builder, "graph")
    with _release_on_failure(graphs):
        eager_s, graph_s = builder.time_steps("eager", builder.advance), builder.time_steps("graph", graphs.advance)
    if eager_s < graph_s:
        graphs.release()
        return builder.eager_engine(f"the faster one: {_format_us(eager_s)} per step, graph {_format_us(graph_s)}")
    why = f"the faster one: {_format_us(graph_s)} per step, eager {_format_us(eager_s)}"
    return _compile_if_faster(builder, graphs, graph_s, why)


def build_graph(builder: EngineBuilder) -> Engine:
    """Return graphs of the steps, with compiled networks if that is faster. Raises EngineUnavailable."""
    builder.check_supported()
    graphs = _checked_graphs(builder, "graph")
    with _release_on_failure(graphs):
        graph_s = builder.time_steps("graph", graphs.advance)
    return _compile_if_faster(builder, graphs, graph_s, f"as requested; {_format_us(graph_s)} per step")


def build_graph_compiled(builder: EngineBuilder) -> Engine:
    """Return graphs with compiled networks, or graphs without if compiling fails. Raises EngineUnavailable."""
    builder.check_supported()
    try:
        builder.compile()
        return builder.engine("graph-compiled", "as requested", _checked_graphs(builder, "graph-compiled"))
    except EngineUnavailable as error:
        uncompile(builder.gan)
        why = f"graph-compiled was not taken: {error}"
        return builder.engine("graph", why, _checked_graphs(builder, "graph"), is_fallback=True)


def _checked_graphs(builder: EngineBuilder, name: str) -> Graphs:
    """Return graphs whose steps match eager ones. Raises EngineUnavailable."""
    graphs = builder.capture()
    with _release_on_failure(graphs):
        builder.check(name, graphs.advance)
    return graphs


@contextmanager
def _release_on_failure(graphs: Graphs) -> Iterator[None]:
    """Release graphs if the block raises EngineUnavailable: NCCL does not shut down while one exists."""
    try:
        yield
    except EngineUnavailable:
        graphs.release()
        raise


def _compile_if_faster(builder: EngineBuilder, plain: Graphs, plain_s: float, why: str) -> Engine:
    """Return the plain graphs, or graphs with compiled networks if the run is long enough to pay for compiling.

    The smallest block is compiled first; its time is the basis of an estimate for the others.
    """

    def keep_plain(reason: str) -> Engine:
        uncompile(builder.gan)
        return builder.engine("graph", f"{why}; not compiled inside: {reason}", plain)

    if penalty_weight(builder.config.optim, builder.gan.loss):
        return keep_plain("the penalty needs a second derivative, which torch.compile lacks")
    pays, estimate = estimate_compile_gain(builder.steps_left, plain_s, FIRST_BLOCK_S)
    if not pays:
        return keep_plain(estimate)
    try:
        pays, estimate = estimate_compile_gain(builder.steps_left, plain_s, builder.compile_smallest())
        if not pays:
            return keep_plain(f"{estimate}, estimated from its smallest block")
        builder.compile()
        graphs = _checked_graphs(builder, "graph-compiled")
        with _release_on_failure(graphs):
            compiled_s = builder.time_steps("graph-compiled", graphs.advance)
    except EngineUnavailable as error:
        return keep_plain(str(error))
    if compiled_s < plain_s:
        plain.release()
        return builder.engine("graph-compiled", f"{why}, compiled inside {_format_us(compiled_s)}", graphs)
    graphs.release()
    return keep_plain(f"no faster, {_format_us(compiled_s)} per step")


def _format_us(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} microseconds"
