"""Codes of user errors, each with cause and remedy. docs/errors.md lists them."""

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """`kind`: the general code, a key of KINDS, which is printed after the code."""

    kind: str
    cause: str
    remedy: str


# The general codes. Older versions printed only these, and scripts match them: do not change them.
KINDS = {
    "bad-value": "a flag, setting, argument or environment variable has a value that is not allowed",
    "bad-data": "a file has other content than expected, or is damaged",
    "not-found": "a file, folder, run or checkpoint does not exist",
    "exists": "the output exists already, or another process uses its folder",
    "mismatch": "two things that must agree do not: a run and its resume, two ranks, two results",
    "unreadable": "a file exists and cannot be read: permissions, or not a regular file",
    "unwritable": "a file cannot be written: a full or read-only disk, permissions",
    "unavailable": "a package, GPU, precision or download is not available on this machine",
    "launch": "the processes cannot form a group: launchers, ports, ranks, SLURM",
}

_REMEDIES = {
    "bad-value": "use a value that the message lists",
    "bad-data": "replace the file by a good copy, or name another",
    "not-found": "check the path",
    "exists": "name a new folder or file",
    "mismatch": "make the two agree, or start a new run",
    "unreadable": "check the permissions of the file",
    "unwritable": "free space, change the permissions, or use another path",
    "unavailable": "install it, or choose what the message lists",
    "launch": "start with --processes N, torchrun or accelerate launch; distgan doctor tests the machine",
}

# Messages may change: scripts and tests match the code.
CODES = {kind: ErrorCode(kind, cause, _REMEDIES[kind]) for kind, cause in KINDS.items()} | {
    # -- bad-value
    "unknown-name": ErrorCode("bad-value", "no preset, command, network or precision has this name",
                              "use a name that the message lists"),
    "unknown-setting": ErrorCode("bad-value", "no flag, or key of a settings file, has this name",
                                 "correct the spelling; --help lists the flags of a command"),
    "missing-value": ErrorCode("bad-value", "a flag or a command lacks its value or argument",
                               "give one that the message lists"),
    "conflicting-settings": ErrorCode("bad-value", "two settings exclude each other, or one requires another",
                                      "change one of them as the message says"),
    "setting-not-applicable": ErrorCode("bad-value", "a setting does not apply to this network, file or data set",
                                        "leave the flag out"),
    "bad-path": ErrorCode("bad-value", "a path has a wrong suffix, an unknown home folder, or is a folder",
                          "name a file as the message says"),
    "batch-too-small": ErrorCode("bad-value", "a batch, or the last one of an epoch, has too few images",
                                 "raise --batch-size, lower --processes or --d-microbatches, or --drop-last"),
    "networks-not-trusted": ErrorCode("bad-value", "a run has a copy of a user's networks: code that would be executed",
                                      "read networks/ in the run's folder, then --trust-networks"),
    "image-count": ErrorCode("bad-value", "too few images for an evaluation, or too many for a picture",
                             "change --num"),
    "deepspeed-config": ErrorCode("bad-value", "the DeepSpeed config has a setting that cannot be used here",
                                  "remove the key: the message names the flag in its place"),
    # -- bad-data
    "bad-config-file": ErrorCode("bad-data", "a settings file is not TOML or JSON, or not a table",
                                 "correct the file at the line that the message names"),
    "bad-dataset": ErrorCode("bad-data", "a file of a data set is damaged or of another kind",
                             "delete it to have it downloaded again"),
    "bad-images": ErrorCode("bad-data", "images or labels are missing, damaged, or of another form than expected",
                            "change the files as the message says; distgan data PATH shows what is found"),
    "not-measurable": ErrorCode("bad-data", "the data has too few images, or a class without any, for measured quality",
                                "give more images, or leave --eval-every and --stop-at out"),
    "checksum-mismatch": ErrorCode("bad-data", "a file's checksum is not the published or recorded one",
                                   "replace the file, or accept it by --data-md5 accept"),
    "damaged-checkpoint": ErrorCode("bad-data", "a checkpoint is incomplete or changed since it was written",
                                    "resume from an older one: distgan checkpoint verify RUN"),
    "damaged-file": ErrorCode("bad-data", "a results, record or weights file is not what distgan writes",
                              "restore it from a copy, or write it again"),
    "unknown-format": ErrorCode("bad-data", "a file has a newer format", "update distgan"),
    "wrong-results": ErrorCode("bad-data", "benchmark results are of another kind, or lack the cells that are needed",
                               "name results of the benchmark that the message lists"),
    "wrong-weights": ErrorCode("bad-data", "weights are of another network than the config beside them",
                               "keep weights and their config.json together"),
    "non-finite-values": ErrorCode("bad-data", "weights or images are NaN or infinite",
                                   "use an earlier checkpoint"),
    "bad-networks": ErrorCode("bad-data", "a file of --networks does not load, or its networks break the contract",
                              "change the file as the message says; distgan doctor --networks FILE checks it"),
    # -- not-found
    "no-run": ErrorCode("not-found", "a folder holds no run", "name the folder that has the run's config.json"),
    "no-checkpoint": ErrorCode("not-found", "a run or folder has no valid checkpoint",
                               "put a copy of one there, or start a new run by --out"),
    "no-results": ErrorCode("not-found", "there are no results of distgan bench",
                            "name a results.json, or its folder"),
    "no-weights": ErrorCode("not-found", "there are no generator weights", "name a run, its weights, or a checkpoint"),
    "no-networks": ErrorCode("not-found", "the file of your own networks does not exist",
                             "name it by --networks FILE"),
    "no-data": ErrorCode("not-found", "the data set is not in its folder",
                         "set --data-dir, allow the download, or --data digits"),
    "no-judges": ErrorCode("not-found", "distgan judge show finds no classifiers for this data",
                           "distgan judge train --data NAME; the first evaluation of such images trains them too"),
    # -- exists
    "output-exists": ErrorCode("exists", "the output exists already and is not overwritten",
                               "name a new folder or file; --resume auto continues a run"),
    "folder-in-use": ErrorCode("exists", "another process uses the folder", "wait until it ends, or name another"),
    "process-in-use": ErrorCode("exists", "another thread of this program trains or evaluates",
                                "wait until it ends, or start another process"),
    # -- mismatch
    "resume-mismatch": ErrorCode("mismatch", "the run has other settings, data or batches than its checkpoint",
                                 "use the same, --allow-config-change where allowed, or a new --out"),
    "ranks-differ": ErrorCode("mismatch", "the processes of a run differ in version, setting or data",
                              "start all ranks with the same code, settings and data"),
    "initial-weights-mismatch": ErrorCode("mismatch", "--init-from names the weights of networks of another form",
                                          "use the model, family, width and image size of that run"),
    "images-do-not-fit": ErrorCode("mismatch", "networks cannot be built for the size, colour or classes of the images",
                                   "set --image-size, or choose another --family or --model"),
    # -- unwritable
    "disk-full": ErrorCode("unwritable", "the disk or the quota is full", "free space, or write to another disk"),
    # -- unavailable
    "no-gpu": ErrorCode("unavailable", "the setting needs a CUDA device, and there is none",
                        "--device cpu or an engine for CPUs; distgan doctor says why"),
    "missing-package": ErrorCode("unavailable", "a package is missing or does not import",
                                 "install it: pip install 'distgan[deepspeed]' or 'distgan[wandb]'"),
    "tracker-failed": ErrorCode("unavailable", "a tracker of --tracker does not start, for example without its server",
                                "what the message names, or --tracker without it"),
    "precision-unavailable": ErrorCode("unavailable", "the device cannot compute in this precision",
                                       "leave --precision unset, or fp32, bf16"),
    "download-failed": ErrorCode("unavailable", "the data set could not be downloaded",
                                 "check the network, --data-mirror, or put the files into --data-dir"),
    # -- launch
    "launcher-environment": ErrorCode("launch", "an environment variable of a launcher or of torch is invalid",
                                      "unset it, or set it as the message says"),
    "launcher-conflict": ErrorCode("launch", "the launcher and the settings disagree, or it is not supported",
                                   "start with one launcher only, and as many processes as GPUs"),
    "not-enough-memory": ErrorCode("launch", "the processes would need more memory than is free",
                                   "start fewer --processes"),
    "rank-missing": ErrorCode("launch", "a process did not join in time",
                              "check that all ranks start, and raise --timeout"),
    "rendezvous-failed": ErrorCode("launch", "the processes cannot connect: address, port or network interface",
                                   "set MASTER_ADDR, MASTER_PORT or GLOO_SOCKET_IFNAME"),
    "slurm": ErrorCode("launch", "SLURM is absent, or rejects the job", "change the job as sbatch's message says"),
}  # fmt: skip
