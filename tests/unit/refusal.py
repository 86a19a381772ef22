"""A helper of the tests of Spec."""

import pytest

from fastctr.errors import SpecError, UnknownField
from fastctr.spec import Spec


def refused(field, **kw):
    """The error of a spec that must not be made, checked for its parts."""
    kw.setdefault("rootfs", "host")
    with pytest.raises(SpecError) as caught:
        Spec(**kw)
    error = caught.value
    assert error.field == field, str(error)
    assert isinstance(error, ValueError)
    assert str(error).startswith(error.where) or isinstance(error, UnknownField)
    return error
