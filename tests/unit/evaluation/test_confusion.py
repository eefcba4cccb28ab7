"""Counts behind the scores of an evaluation."""

import pytest
import torch

from distgan.evaluation.scores import confusion_matrix


def test_confusion_matrix_counts_label_by_read() -> None:
    found = confusion_matrix(torch.tensor([7, 7, 2, 9]), torch.tensor([7, 2, 2, 9]), 10)
    assert found.shape == (10, 10)
    assert {place: int(found[place]) for place in ((7, 7), (2, 7), (2, 2), (9, 9))} == dict.fromkeys(
        ((7, 7), (2, 7), (2, 2), (9, 9)), 1
    )
    assert int(found.sum()) == 4


def test_confusion_matrix_equals_torchmetrics() -> None:
    theirs = pytest.importorskip("torchmetrics.functional.classification").multiclass_confusion_matrix
    generator = torch.Generator().manual_seed(0)
    read, labels = (torch.randint(10, (500,), generator=generator) for _ in range(2))
    assert torch.equal(confusion_matrix(read, labels, 10), theirs(read, labels, 10))
    empty = torch.zeros(0, dtype=torch.long)
    assert torch.equal(confusion_matrix(empty, empty, 10), torch.zeros(10, 10, dtype=torch.long))
