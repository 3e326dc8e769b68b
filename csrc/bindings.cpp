// vqlabel._native: see vqlabel/_native.pyi.
#include <pybind11/pybind11.h>

namespace vqlabel {
void bind_bitpack(pybind11::module_& m);
void bind_decode(pybind11::module_& m);
void bind_replay(pybind11::module_& m);
void bind_search(pybind11::module_& m);
}  // namespace vqlabel

PYBIND11_MODULE(_native, m, pybind11::mod_gil_not_used()) {
    m.doc() = "The fast half of vqlabel. See vqlabel/_native.pyi.";
    vqlabel::bind_bitpack(m);
    vqlabel::bind_decode(m);
    vqlabel::bind_replay(m);
    vqlabel::bind_search(m);
}
