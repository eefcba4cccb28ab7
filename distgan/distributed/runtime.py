"""Processes and devices, by Accelerate: ranks, wrapped networks, collectives."""

import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import accelerate
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from distgan.config.registry import ENGINES, PRECISIONS, names_on_cpu
from distgan.config.schema import Config
from distgan.distributed import deepspeed, env, rendezvous
from distgan.distributed.precision import choose_precision
from distgan.distributed.wrappers import FlatAllReduceNetwork, WrappedNetwork
from distgan.errors import AllRanksUserError, UserError, catch_user_error
from distgan.utils import devices
from distgan.utils.devices import AsyncHostCopy
from distgan.utils.hardware import cpu_name
from distgan.utils.process_state import preserve_process_state

T = TypeVar("T")
# Steps on a GPU between two checks for a request to stop on some rank.
STOP_POLL_STEPS = 25


@contextmanager
def open_runtime(config: Config, *, has_penalty: bool = False) -> Iterator["Runtime"]:
    """Join the other ranks. On exit leave the process group and restore the process state. All ranks call it.

    Raises UserError, also where this program has a process group already or another of its threads is in here, and
    ProcessLost, which names the lost rank, for an error of a connection.
    """
    with _one_thread_at_a_time(), preserve_process_state(), _own_accelerate_state():
        if torch.distributed.is_initialized():
            raise UserError(
                "torch.distributed: this program has a process group already. Expected: destroy_process_group() "
                "first, or distgan's functions before Accelerator() and init_process_group()",
                code="launcher-conflict",
            )
        with rendezvous.process_group_scope(), rendezvous.name_lost_ranks():
            runtime = Runtime(config, has_penalty=has_penalty)
            try:
                yield runtime
                runtime.barrier()
            finally:
                runtime.at_end.close()
                deepspeed.leave_process_group()


_lock = threading.RLock()


@contextmanager
def _one_thread_at_a_time() -> Iterator[None]:
    """Raise UserError while another thread is in the block: random numbers and Accelerate's state are the process's."""
    if not _lock.acquire(blocking=False):
        raise UserError(
            "another thread of this program trains or evaluates. Expected: one at a time, or another process",
            code="process-in-use",
        )
    try:
        yield
    finally:
        _lock.release()


@contextmanager
def _own_accelerate_state() -> Iterator[None]:
    """Hide the state of an Accelerator that the program has, and restore it."""
    states: tuple[Any, ...] = (AcceleratorState, PartialState, GradientState)
    before = [dict(state._shared_state) for state in states]
    try:
        for state in states:
            state._shared_state.clear()
        yield
    finally:
        for state, values in zip(states, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(values)


class Runtime:
    """This rank and its collectives; the same under accelerate launch, torchrun and plain python."""

    def __init__(self, config: Config, *, has_penalty: bool = False):
        num_launched = env.world_size()
        use_cuda = torch.cuda.is_available() and not env.wants_cpu()
        if config.run.device == "cuda" and not use_cuda:
            raise UserError("--device: no CUDA device here (cuda). Expected here: cpu, auto", code="no-gpu")
        is_cpu = config.run.device == "cpu" or not use_cuda
        engine = ENGINES[config.run.engine]
        if engine.needs_cuda and is_cpu:
            allowed = ", ".join(names_on_cpu(ENGINES))
            raise UserError(
                f"--engine: CUDA graphs need a CUDA device ({config.run.engine}). Expected on a CPU: {allowed}",
                code="no-gpu",
            )
        requested = env.resolve_precision(config.run.precision, is_cpu=is_cpu)
        env.check_environment(is_cpu=is_cpu, is_tf32=requested == "tf32")
        if is_cpu and (threads := config.run.threads or env.cores_per_process()):
            torch.set_num_threads(threads)
        zero = deepspeed.resolve_config(
            config, requested, is_cpu=is_cpu, has_cuda=torch.cuda.is_available(), has_penalty=has_penalty
        )
        if num_launched > 1 or zero:
            if not is_cpu:
                devices.set_local_gpu()
            rendezvous.join_process_group(config, "gloo" if is_cpu else "nccl", requested, zero)
        self.precision, self.precision_note = choose_precision(
            requested, torch.device("cpu" if is_cpu else "cuda"), is_unset=config.run.precision is None
        )
        mixed_precision = PRECISIONS[self.precision].mixed_precision
        self.is_launched, self.is_ours = env.is_launched(), env.is_distgan_launch()
        self._variables = env.numerics_variables()
        self.warnings = env.precision_warnings(self.precision, is_cpu=is_cpu) + env.remove_launcher_variables(
            torch.get_num_threads()
        )
        self._network_type: Callable[..., WrappedNetwork]
        if zero:
            from distgan.distributed.deepspeed import DeepSpeedNetwork, build_accelerators

            device_type = "cpu" if is_cpu else "cuda"
            accelerators = build_accelerators(zero, config.optim.d_microbatches, device_type)
            self._accelerator = accelerators["generator"]
            self._network_type = partial(DeepSpeedNetwork, accelerators=accelerators, is_bf16=self.precision == "bf16")
        else:
            # Without cpu=True and without a GPU, Accelerate would let each process train alone.
            self._accelerator = accelerate.Accelerator(
                cpu=is_cpu, mixed_precision=mixed_precision, step_scheduler_with_optimizer=False
            )
            # A graph can capture an all-reduce, but not DDP's work on the host.
            is_flat = num_launched > 1 and not is_cpu and engine.captures_graphs
            network_type = FlatAllReduceNetwork if is_flat else WrappedNetwork
            self._network_type = partial(network_type, accelerator=self._accelerator)
        self.strategy = f"ZeRO {zero['zero_optimization']['stage']}" if zero else "DDP"
        # Of weights: on a GPU channels_last saves a conversion per pass; DeepSpeed does not take it.
        self.memory_format = torch.contiguous_format if is_cpu or zero else torch.channels_last
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.local_rank: int = self._accelerator.local_process_index
        self.world_size: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        self.is_local_main: bool = self._accelerator.is_local_main_process
        # What ends when no other rank waits for this one any more, however long it takes.
        self.at_end = ExitStack()
        self._stop_request: AsyncHostCopy | None = None
        if not is_cpu:
            devices.configure_cuda(is_tf32=self.precision == "tf32")
        if num_launched != self.world_size:
            raise UserError(
                f"WORLD_SIZE: the launcher started {num_launched} processes, and Accelerate joined {self.world_size}. "
                "Expected: torchrun or accelerate launch --multi_gpu",
                code="launcher-conflict",
            )

    def wrap_network(self, name: str, network: nn.Module, optim: torch.optim.Optimizer) -> WrappedNetwork:
        """Return the network on the device, under autocast, in DDP with several ranks, or in DeepSpeed."""
        return self._network_type(name, network, optim)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the ranks. All ranks call it."""
        return self._accelerator.reduce(values, reduction="mean") if self.world_size > 1 else values

    def all_gather_object(self, value: T) -> Sequence[T]:
        """Return the value of each rank, by rank, on all ranks. All ranks call it."""
        return gather_object([value]) if self.world_size > 1 else [value]

    def all_gather(self, values: Tensor) -> Tensor:
        """Return the tensors of all ranks, (W, *values.shape), on all ranks. All ranks call it."""
        return self._accelerator.gather(values.unsqueeze(0))

    def run_on_all_ranks(self, attempt: Callable[[], T], *, local_main_first: bool = False) -> T:
        """Call `attempt` on every rank; a UserError of one is raised on all, and printed once.

        No rank is left waiting for one that failed. With `local_main_first` local rank 0 of each machine calls it
        before the others.
        """
        order = rendezvous.local_rank0_first(self.rank, self.local_rank) if local_main_first else nullcontext()
        with order:
            result, error = catch_user_error(attempt)
        errors = [(rank, e) for rank, e in enumerate(self.all_gather_object(error)) if e is not None]
        if errors:
            rank, first = errors[0]
            is_common = len(errors) == self.world_size
            raise AllRanksUserError(str(first) if is_common else f"rank {rank}: {first}", code=first.code)
        return result  # type: ignore[return-value]  # no error, so it is a T

    def run_on_rank0(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` on rank 0. Return its result, or raise its UserError, on all ranks."""
        outcome = [catch_user_error(attempt) if self.is_main else None]
        if self.world_size > 1:
            broadcast_object_list(outcome, from_process=0)
        assert outcome[0] is not None
        result, error = outcome[0]
        if error is not None:
            raise AllRanksUserError(str(error), code=error.code)
        return result  # type: ignore[return-value]

    def check_same_on_ranks(self, name: str, value: str) -> None:
        """Raise UserError where a rank has another value than rank 0. All ranks call it."""
        first, *others = self.all_gather_object(value)
        for rank, other in enumerate(others, 1):
            if other != first:
                raise AllRanksUserError(
                    f"rank {rank}: its {name} is {other}, that of rank 0 {first}. Expected: the same",
                    code="ranks-differ",
                )

    def all_reduce_stop_reason(self, reason: int, step: int) -> int:
        """Return the maximum of the ranks' reasons to stop, 0 for none. All ranks call it.

        On a GPU it all-reduces only every STOP_POLL_STEPS steps, and returns the result of the previous all-reduce, so
        that the host does not wait for the device.
        """
        if self.world_size == 1:
            return reason
        is_cuda = self.device.type == "cuda"
        if is_cuda and step % STOP_POLL_STEPS:
            return 0
        highest = torch.full((), reason, device=self.device)
        torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
        previous, self._stop_request = self._stop_request, AsyncHostCopy(highest)
        result = previous if is_cuda else self._stop_request
        return int(result.wait()) if result else 0

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
        devices.synchronize(self.device)

    def random_states(self) -> dict[str, Tensor]:
        """Return `rank0.cpu`, `rank0.cuda`, ...: the generator states of all ranks. All ranks call it."""
        states = {f"rank{self.rank}.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states[f"rank{self.rank}.cuda"] = torch.cuda.get_rng_state(self.device)
        return {key: state for rank in self.all_gather_object(states) for key, state in rank.items()}

    def load_random_states(self, states: dict[str, Tensor], source: str) -> None:
        """Restore this rank's generators, by device. Raises UserError that names `source`."""
        try:
            if "cpu" in states:
                torch.set_rng_state(states["cpu"])
            if "cuda" in states and self.device.type == "cuda":
                torch.cuda.set_rng_state(states["cuda"], self.device)
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"{source}: not a state of torch's generators ({error}). Expected: an unchanged checkpoint",
                code="damaged-checkpoint",
            ) from error

    def grad_scaler_state(self) -> dict[str, float] | None:
        """Return the state of fp16's loss scaler; None in any other precision."""
        return None if self._accelerator.scaler is None else self._accelerator.scaler.state_dict()

    def load_grad_scaler_state(self, state: dict[str, float] | None, source: str) -> None:
        """Restore the loss scaler. Raises UserError that names `source`."""
        try:
            if state is not None and self._accelerator.scaler is not None:
                self._accelerator.scaler.load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            raise UserError(
                f"{source}: not a state of torch's gradient scaler ({error}). Expected: an unchanged checkpoint",
                code="damaged-checkpoint",
            ) from error

    def barrier(self) -> None:
        """Wait for all ranks, so that none closes connections that another still uses."""
        self._accelerator.wait_for_everyone()

    def peak_memory_gib(self) -> float:
        """Return the peak memory in GiB of the device, or on a CPU of this process."""
        return devices.peak_memory_gib(self.device)

    def describe_precision(self) -> str:
        """Return the precision and the note on its choice, as text."""
        return f"precision {self.precision}" + (f" ({self.precision_note})" if self.precision_note else "")

    def describe(self) -> dict[str, object]:
        """Return the machine and the processes, for environment.json."""
        is_cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if is_cuda else cpu_name(),  # GPU or processor of rank 0
            "device_type": self.device.type,  # cpu or cuda
            "world_size": self.world_size,  # number of processes
            "precision": self.precision,  # the precision in use
            "precision_note": self.precision_note,  # why it was chosen
            "threads": torch.get_num_threads(),  # CPU threads of rank 0
            "variables": self._variables,  # environment variables that choose algorithms
            "host": platform.node(),  # name of the machine
            "platform": platform.platform(),  # operating system
        }
