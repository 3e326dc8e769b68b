// What the bindings share: arguments checked in words that say what was found and what to do.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "threads.hpp"

namespace vqlabel {

namespace py = pybind11;
using std::to_string;

inline std::string text(const py::handle& object) { return py::cast<std::string>(py::str(object)); }

// An array of this dtype and number of dimensions, C-contiguous and native; else an error that says what was found.
inline py::array checked(const py::object& object, const char* what, const std::string& dtype, py::ssize_t ndim) {
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(std::string(what) + " must be a numpy array, got " +
                             text(py::type::of(object).attr("__name__")));
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (!array.dtype().equal(py::dtype(dtype))) {
        throw py::type_error(std::string(what) + " must be " + dtype + ", got " + text(array.dtype()) +
                             "; convert with .astype(np." + dtype + ")");
    }
    if (array.ndim() != ndim) {
        throw py::value_error(std::string(what) + " must have " + to_string(ndim) + " dimensions, got shape " +
                              text(array.attr("shape")));
    }
    const bool aligned = reinterpret_cast<uintptr_t>(array.data()) % static_cast<size_t>(array.itemsize()) == 0;
    if (!(array.flags() & py::array::c_style) || !aligned) {
        throw py::value_error(std::string(what) + " must be contiguous; copy it with np.ascontiguousarray");
    }
    return array;
}

// The array to fill: `out` if it fits, else a new one.
inline py::array output(const py::object& out, const char* dtype, py::ssize_t rows, py::ssize_t columns) {
    if (out.is_none()) return py::array(py::dtype(dtype), {rows, columns});
    py::array array = checked(out, "out", dtype, 2);
    if (array.shape(0) != rows || array.shape(1) != columns) {
        throw py::value_error("out must have shape (" + to_string(rows) + ", " + to_string(columns) + "), got " +
                              text(array.attr("shape")));
    }
    if (!array.writeable()) throw py::value_error("out is read-only");
    return array;
}

inline void check_threads(py::ssize_t threads) {
    if (threads < 1 || threads > static_cast<py::ssize_t>(kMaxThreads)) {
        throw py::value_error("threads must be 1 to " + to_string(kMaxThreads) + ", got " + to_string(threads));
    }
}

}  // namespace vqlabel
