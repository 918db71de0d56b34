// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Whether Python's tables are still what they were: asked for each layer at each call, which in Python takes
// longer than a small layer does.
#pragma once
#include <pybind11/pybind11.h>

namespace srk::facts {

namespace py = pybind11;

inline PyObject* item(PyObject* fact, Py_ssize_t i) {
    if (!PyTuple_Check(fact) || i >= PyTuple_GET_SIZE(fact)) throw py::type_error("a fact is a tuple");
    return PyTuple_GET_ITEM(fact, i);
}

// nullptr for what is not there, or whose table is none of Python's own.
inline PyObject* entry(PyObject* fact) {
    PyObject* const table = item(fact, 0);
    PyObject* const found = PyDict_Check(table) ? PyDict_GetItemWithError(table, item(fact, 1)) : nullptr;
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return found;
}

inline bool equal(PyObject* now, PyObject* known) {
    if (now == nullptr || Py_TYPE(now) != Py_TYPE(known)) return false;
    const auto held = py::reinterpret_borrow<py::object>(now);  // == may run Python, which may drop it
    const int found = PyObject_RichCompareBool(now, known, Py_EQ);
    if (found < 0) throw py::error_already_set();
    return found == 1;
}

template <typename Test>
bool every(const py::tuple& facts, Test test) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(facts.ptr()); ++i)
        if (!test(PyTuple_GET_ITEM(facts.ptr(), i))) return false;
    return true;
}

inline void bind(py::module_& m) {
    m.def(
        "are_same",
        [](const py::tuple& facts) {
            return every(facts, [](PyObject* f) { return entry(f) == item(f, 2); });
        },
        py::arg("facts"), "Whether of all (table, key, object) the table holds that very object.");
    m.def(
        "are_equal",
        [](const py::tuple& facts) {
            return every(facts, [](PyObject* f) {
                PyObject *const now = entry(f), *const known = item(f, 2);
                return now == known || equal(now, known);
            });
        },
        py::arg("facts"), "The same, or one of the same class that equals it.");
    m.def(
        "are_of_size",
        [](const py::tuple& facts) {
            return every(facts, [](PyObject* f) {
                const Py_ssize_t count = PyLong_AsSsize_t(item(f, 1));
                if (count == -1 && PyErr_Occurred()) throw py::error_already_set();
                PyObject* const table = item(f, 0);
                return PyDict_Check(table) && PyDict_GET_SIZE(table) == count;
            });
        },
        py::arg("facts"), "Whether of all (table, count) the table has so many entries.");
    m.def(
        "are_instances",
        [](const py::tuple& facts) {
            return every(facts, [](PyObject* f) {
                return reinterpret_cast<PyObject*>(Py_TYPE(item(f, 0))) == item(f, 1);
            });
        },
        py::arg("facts"), "Whether of all (object, class) the object is of that very class.");
}

}  // namespace srk::facts
