"""Conformance with the known floor: the mean shape on ORL has a forward NME of 23.7 %."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from uld.artifacts.annotations import AnnotationSet
from uld.evaluate.cases import Case, normaliser
from uld.evaluate.nme import forward_errors, nme
from uld.evaluate.protocols import PROTOCOLS
from uld.evaluate.regressors import fit


def test_mean_shape_of_orl() -> None:
    table = pd.read_csv(Path(__file__).parents[2] / "data" / "orl" / "landmarks68.csv")
    xy = table.filter(regex=r"^[xy]\d+$").to_numpy().reshape(len(table), 68, 2)
    people = np.random.default_rng(0).permutation(40)[:30] + 1
    train = np.isin(table["identity"], people)
    assert train.sum() == 300
    canonical = PROTOCOLS["canonical"]
    eyes = AnnotationSet(xy, tuple(range(36, 42)), tuple(range(42, 48)))
    nothing = np.zeros((len(xy), 0, 2))
    case = Case(
        ("canonical", "p68", "dense"),
        canonical,
        nothing,
        xy,
        normaliser(canonical, eyes, xy),
        np.flatnonzero(train),
        np.flatnonzero(~train),
    )
    regressor = fit(nothing, xy, case.pool[None], canonical.ridge, canonical)
    assert nme(forward_errors(case, regressor)) == pytest.approx(23.7, abs=0.1)
