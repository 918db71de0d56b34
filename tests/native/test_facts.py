# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""Facts about Python's tables: each kind holds until the one thing that it is about has changed."""

import sys
from collections import OrderedDict, UserDict

import pytest

_C = pytest.importorskip("sr_kernels._C", reason="the native extension is not built")

THING, OTHER = object(), object()


class Trap:
    """== raises."""

    def __eq__(self, other):
        raise RuntimeError("compared")

    __hash__ = None


class Dropping:
    """== takes the last reference to the one that is compared out of its table."""

    def __init__(self, table):
        self.table = table

    def __eq__(self, other):
        self.table.clear()
        other.table.clear()
        return True

    __hash__ = None


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_the_very_object(kind):
    table = kind(a=THING, b=None)
    facts = ((table, "a", THING), (table, "b", None))
    assert _C.are_same(facts)
    table["b"] = OTHER
    assert not _C.are_same(facts)
    del table["b"]
    assert not _C.are_same(facts)
    table["b"] = None
    assert _C.are_same(facts)
    assert _C.are_same(())


def test_an_equal_object_is_not_the_same():
    assert not _C.are_same((({"a": [1, 2]}, "a", [1, 2]),))


@pytest.mark.parametrize(
    ("now", "known", "expected"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 3], False),
        (1, True, False),
        (1, 1.0, False),
        ((1,), [1], False),
        (float("nan"), float("nan"), False),
        (THING, THING, True),
        (THING, OTHER, False),
    ],
)
def test_equals_of_one_class(now, known, expected):
    assert _C.are_equal((({"a": now}, "a", known),)) is expected


def test_what_is_not_there_equals_nothing():
    assert not _C.are_equal((({}, "a", None),))


def test_an_error_of_a_comparison_is_raised():
    with pytest.raises(RuntimeError, match="compared"):
        _C.are_equal((({"a": Trap()}, "a", Trap()),))


def test_a_comparison_may_take_what_it_compares_away():
    table = {}
    table["a"] = Dropping(table)
    assert _C.are_equal(((table, "a", Dropping(table)),))
    assert not table


def test_sizes():
    table = {"a": 1}
    assert _C.are_of_size(((table, 1), ({}, 0)))
    table["b"] = 2
    assert not _C.are_of_size(((table, 1),))


def test_classes():
    assert _C.are_instances(((1, int), ("", str)))
    assert not _C.are_instances(((True, int),))  # of a class derived from it


def test_tables_of_another_kind_are_not_known():
    table = UserDict(a=THING)
    assert not _C.are_same(((table, "a", THING),))
    assert not _C.are_equal(((table, "a", THING),))
    assert not _C.are_of_size(((table, 1),))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: _C.are_same(((),)),
        lambda: _C.are_same((({"a": 1}, "a"),)),
        lambda: _C.are_same(([{}, "a", 1],)),
        lambda: _C.are_same((({}, [], 1),)),
        lambda: _C.are_of_size((({}, "1"),)),
        lambda: _C.are_same([]),
        lambda: _C.are_instances(((1,),)),
    ],
)
def test_facts_of_another_form_are_refused(ask):
    with pytest.raises(TypeError):
        ask()


def test_nothing_is_kept():
    thing, table = object(), {}
    table["a"] = thing
    before = sys.getrefcount(thing), sys.getrefcount(table)
    facts = ((table, "a", thing),)
    for _ in range(100):
        assert _C.are_same(facts)
        assert _C.are_equal(facts)
    del facts
    assert (sys.getrefcount(thing), sys.getrefcount(table)) == before
