"""Every error formats, says all four things, and has an exit code."""

import inspect
import pickle

import pytest

from okrcell import errors

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.OkrcellError)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_message_says_where_found_expected_and_fix(cls):
    error = cls("file.h5ad row 3", found="a", expected="b", fix="Do c.")
    assert str(error) == "file.h5ad row 3: found a; expected b. Do c."
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)


def test_exit_codes():
    assert errors.InternalError.exit_code == 1
    for cls in CLASSES:
        if cls not in {errors.OkrcellError, errors.InternalError}:
            assert issubclass(cls, errors.UserError)
            assert cls.exit_code == 2
