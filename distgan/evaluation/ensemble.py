"""The ensemble of three judges: where its weights are, their check against the record, and its readings of images."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.registry import DATASETS
from distgan.distributed.runtime import Runtime
from distgan.errors import UserError
from distgan.evaluation.classifiers import NETWORKS, Judge, classify
from distgan.models.base import generator_labels
from distgan.models.sampling import CHUNK, chunk_z, generate
from distgan.training.gan import check_finite, check_weights
from distgan.utils.files import read_limited, read_model
from distgan.utils.paths import user_path

FORMAT = 1
RECORD = "judges.json"
SHIPPED = Path(__file__).resolve().parent / "weights"
_MAX_BYTES = 2**24
_INTACT = "what distgan judge train wrote (train them again, or reinstall distgan for those of the package)"
SURE = 0.9  # the confidence from which on an image counts as recognisable


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class JudgeRecord(_Strict):
    """`matrix` counts true x read on the real test images, (K, K)."""

    name: str
    sha256: str
    num_parameters: int
    matrix: list[list[int]]

    @property
    def num_right(self) -> int:
        return sum(row[label] for label, row in enumerate(self.matrix))


class Recipe(_Strict):
    """Settings that train the same judges again; the same bits by the same torch on the same processor."""

    command: str
    epochs: int
    seeds: list[int]
    train: str  # the fingerprint of the data
    test: str
    versions: dict[str, str | None]
    device: str


class EnsembleRecord(_Strict):
    """judges.json, beside the weights that it names."""

    format: int
    data: str
    images: ImageSpec = MNIST_SPEC  # that the judges are built for; older versions have no other
    recipe: Recipe
    judges: list[JudgeRecord]


class EnsembleOutput(NamedTuple):
    """Outputs for N images: probabilities (N, K), classes by each judge (N, J), the first one's features (N, F)."""

    probabilities: Tensor
    votes: Tensor
    features: Tensor

    @property
    def classes(self) -> Tensor:
        """Class that the ensemble reads, (N,)."""
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> Tensor:
        return self.probabilities.amax(1)

    def of(self, rows: Tensor) -> "EnsembleOutput":
        """Return the outputs of some rows, by number or by mask."""
        return EnsembleOutput(*(values[rows] for values in self))


class ClassifierEnsemble(NamedTuple):
    """Its probabilities are the mean of the judges', so that no single judge decides."""

    judges: list[Judge]
    record: EnsembleRecord
    notice: str | None

    def read(self, images: Tensor) -> EnsembleOutput:
        """Return the outputs for uint8 (N, H, W) or (N, 3, H, W), on the CPU."""
        outputs = [classify(judge, images) for judge in self.judges]
        probabilities = torch.stack([probability for probability, _ in outputs], 1)
        return EnsembleOutput(probabilities.mean(1), probabilities.argmax(2), outputs[0][1])


def cache_folder(data: str) -> Path:
    """Return the folder of the judges of that data, by `RealImages.judges_name`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(base) / "distgan" / "judges" / data


def load_ensemble(
    data: str, device: torch.device, folder: str | None = None, images: ImageSpec = MNIST_SPEC, data_flags: str = ""
) -> ClassifierEnsemble:
    """Load the judges of that data: from `folder` if given, the package, or the cache.

    `data_flags`: those of `distgan judge train` that give the images, unset where the name does.
    Raises UserError where there are none, for judges of other images than `images`, and for weights that are not
    those of their record.
    """
    where, notice = find_judges(data, folder)
    if where is None:
        raise UserError(
            f"judges of {data}: none in {cache_folder(data)}. Expected: distgan judge train "
            f"{data_flags or f'--data {data}'}, or a folder given by distgan eval --judges",
            code="no-judges",
        )
    record = read_record(where)
    if (judged_images := record.images.describe()) != images.describe():  # the names of classes change no weight
        raise UserError(
            f"{where}: judges of other images ({judged_images}). Expected: {images.describe()}",
            code="images-do-not-fit",
        )
    if folder is not None and record.data != data:
        notice = f"the judges were trained on {record.data[:40]!r}, not on {data}"
    judges = [_load(where / f"{judge.name}.safetensors", judge, images).to(device) for judge in record.judges]
    return ClassifierEnsemble(judges, record, notice)


def find_judges(data: str, folder: str | None = None) -> tuple[Path | None, str | None]:
    """Return the folder of the judges of that data, None where there are none, and a notice about them."""
    if folder is not None:
        return user_path(folder, "--judges"), None
    if data == "mnist":
        return SHIPPED, None
    if (cache_folder(data) / RECORD).exists():
        return cache_folder(data), None
    if data in DATASETS and DATASETS[data].has_mnist_digits:  # reports say that MNIST's judges read them
        return SHIPPED, f"the judges were trained on MNIST, not on {data}"
    return None, None


def read_record(folder: Path) -> EnsembleRecord:
    """Read the record. Raises UserError if it is missing, damaged, or of judges that this version does not know."""
    path = folder / RECORD
    record = read_model(path, EnsembleRecord, _MAX_BYTES, version=FORMAT, rule="what distgan judge train wrote")
    names = [judge.name for judge in record.judges]
    if names != list(NETWORKS):
        raise UserError(
            f"{path}: unknown judges ({', '.join(names)}). Expected: {', '.join(NETWORKS)}", code="damaged-file"
        )
    for judge in record.judges:
        num = record.images.num_classes
        if [len(row) for row in judge.matrix] != [num] * num or min(map(min, judge.matrix)) < 0:
            raise UserError(
                f"{path}: the matrix of {judge.name} is not a table of {num} x {num} counts. Expected: {_INTACT}",
                code="damaged-file",
            )
    return record


def _load(path: Path, record: JudgeRecord, images: ImageSpec) -> Judge:
    data = read_limited(path, _MAX_BYTES)
    if (sha256 := hashlib.sha256(data).hexdigest()) != record.sha256:
        raise UserError(
            f"{path}: its SHA-256 is {sha256[:16]}..., that of {RECORD} is {record.sha256[:16]}.... Expected: the "
            f"weights of the record: {_INTACT}",
            code="checksum-mismatch",
        )
    with torch.device("meta"):  # no initial weights, which would advance a training's generator
        judge = NETWORKS[record.name](images)
    where = f"{path}: holds no weights of the judge {record.name}"
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise UserError(f"{where} ({error}). Expected: {_INTACT}", code="damaged-file") from error
    check_weights(judge, tensors, where)
    check_finite(tensors, where)
    judge.load_state_dict(tensors, assign=True)
    return judge.float().eval()


# -- Work on many images, shared by the ranks in chunks: any number of ranks gets the same --

T = TypeVar("T")


def read_images(ensemble: ClassifierEnsemble, images: Tensor, runtime: Runtime) -> EnsembleOutput:
    """Return the outputs of the ensemble for uint8 (N, H, W) or (N, 3, H, W), on all ranks. All ranks call it."""

    def work(chunk: int) -> tuple[Tensor, ...]:
        part = images[chunk * CHUNK : (chunk + 1) * CHUNK]
        return ensemble.read(torch.cat([part, part[:1].expand(CHUNK - len(part), *part.shape[1:])]))

    return EnsembleOutput(*_run_chunks(len(images), runtime, work))


def draw_and_read(
    generator: nn.Module, ensemble: ClassifierEnsemble, num: int, seed: int, runtime: Runtime
) -> tuple[Tensor, EnsembleOutput]:
    """Draw `num` images, uint8 (N, H, W) or (N, 3, H, W), and classify them, on all ranks. All ranks call it.

    Image i depends on `seed` and i alone, with the label i % K: it is the one of `distgan sample`.
    """
    num_classes = ensemble.record.images.num_classes

    def work(chunk: int) -> tuple[Tensor, ...]:
        z = chunk_z(chunk, generator.latent_shape, seed)  # type: ignore[arg-type]  # Module's have no types
        labels = generator_labels(generator, z, requested_classes(CHUNK, num_classes, CHUNK * chunk))
        images = torch.from_numpy(generate(generator, z, labels))
        if images.ndim == 4:
            images = images.movedim(-1, 1)
        return images, *ensemble.read(images)

    images, *reading = _run_chunks(num, runtime, work)
    return images, EnsembleOutput(*reading)


def requested_classes(num: int, num_classes: int, start: int = 0) -> Tensor:
    """Return the labels of drawn images from number `start` on, (num,)."""
    return torch.arange(start, start + num) % num_classes


def _run_chunks(num: int, runtime: Runtime, work: Callable[[int], tuple[Tensor, ...]]) -> list[Tensor]:
    """Return the results of `work(chunk)`, tensors of CHUNK rows, in order: (num, ...) on the CPU."""
    num_chunks, size, rank = -(-num // CHUNK), runtime.world_size, runtime.rank
    with _thread_pool(runtime) as pool:
        results = pool.map(work, range(rank, num_chunks, size))
        if size == 1:
            return _concatenate(results, num)
        chunks = list(results)
    # In the last round some ranks have no chunk left, and send one that is dropped.
    fill = chunks[0] if chunks else work(0)
    chunks += [fill] * (-(-num_chunks // size) - len(chunks))
    parts = []
    for round_chunks in zip(*chunks, strict=True):
        gathered = runtime.all_gather(torch.stack(round_chunks).to(runtime.device)).cpu()  # (W, rounds, CHUNK, ...)
        parts.append(gathered.transpose(0, 1).flatten(0, 2)[:num])
    return parts


def _concatenate(parts: Iterator[tuple[Tensor, ...]], num: int) -> list[Tensor]:
    """Return the first `num` rows of all parts, each of which is freed when it is copied."""
    results: list[Tensor] = []
    start = 0
    for part in parts:
        results = results or [values.new_empty(num, *values.shape[1:]) for values in part]
        for rows, values in zip(results, part, strict=True):
            rows[start : start + CHUNK] = values[: num - start]
        start += CHUNK
    return results


def run_jobs(jobs: Sequence[Callable[[], T]], runtime: Runtime) -> list[T]:
    """Return the results of all jobs on all ranks; each rank runs every W-th. All ranks call it."""
    indices = range(runtime.rank, len(jobs), runtime.world_size)
    with _thread_pool(runtime) as pool:
        local = dict(zip(indices, pool.map(lambda i: jobs[i](), indices), strict=True))
    results = {i: result for part in runtime.all_gather_object(local) for i, result in part.items()}
    return [results[i] for i in range(len(jobs))]


def _thread_pool(runtime: Runtime) -> ThreadPoolExecutor:
    """Return a pool with, on a CPU, a thread per core, each of which computes alone.

    Small passes gain more by that than by sharing each of them, and their bits do not depend on the number of cores.
    """
    if runtime.device.type == "cpu":
        return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    return ThreadPoolExecutor(1)
