// nearest, additive_search and class_prior: check every argument, let go of the interpreter lock, call search.hpp and
// prior.hpp.
#include "checks.hpp"
#include "prior.hpp"
#include "search.hpp"

namespace vqlabel {
namespace {

std::string shape_of(const py::array& array) { return text(array.attr("shape")); }

size_t checked_words(py::ssize_t words, const char* what) {
    if (words < 1 || words > static_cast<py::ssize_t>(kMaxWords)) {
        throw py::value_error(std::string(what) + " must have 1 to 65536 codewords, got " + to_string(words));
    }
    return static_cast<size_t>(words);
}

// Group sizes of at least one column that sum to width.
std::vector<size_t> checked_sizes(const py::object& sizes, py::ssize_t width) {
    std::vector<size_t> checked;
    py::ssize_t sum = 0;
    for (const py::handle& item : sizes) {
        const py::ssize_t size = PyNumber_AsSsize_t(item.ptr(), PyExc_ValueError);
        if (size == -1 && PyErr_Occurred()) throw py::error_already_set();
        if (size < 1 || size > width - sum) {
            throw py::value_error("sizes must be at least 1 each and sum to the " + to_string(width) +
                                  " columns of h, got " + text(sizes));
        }
        checked.push_back(static_cast<size_t>(size));
        sum += size;
    }
    if (checked.empty() || sum != width) {
        throw py::value_error("sizes must be at least 1 each and sum to the " + to_string(width) +
                              " columns of h, got " + text(sizes));
    }
    return checked;
}

// A new array of codes and, without the lock, work with a pointer to it: uint8 codes up to 256 words, uint16 above.
template <class Work>
py::array new_codes(const std::vector<py::ssize_t>& shape, size_t words, const Work& work) {
    if (words <= 256) {
        py::array_t<uint8_t> codes(shape);
        auto* target = codes.mutable_data();
        py::gil_scoped_release unlocked;
        work(target);
        return std::move(codes);
    }
    py::array_t<uint16_t> codes(shape);
    auto* target = codes.mutable_data();
    py::gil_scoped_release unlocked;
    work(target);
    return std::move(codes);
}

py::array nearest_array(const py::object& h_in, const py::object& books_in, const py::object& sizes_in,
                        py::ssize_t threads) {
    check_threads(threads);
    const py::array h = checked(h_in, "h", "float32", 2), books = checked(books_in, "books", "float32", 2);
    const py::ssize_t width = h.shape(1);
    if (books.shape(1) != width) {
        throw py::value_error("books must have the " + to_string(width) + " columns of h, got shape " +
                              shape_of(books));
    }
    const size_t words = checked_words(books.shape(0), "books");
    const std::vector<size_t> sizes = checked_sizes(sizes_in, width);
    const auto *rows = static_cast<const float*>(h.data()), *table = static_cast<const float*>(books.data());
    return new_codes({h.shape(0), static_cast<py::ssize_t>(sizes.size())}, words, [&](auto* codes) {
        nearest(rows, static_cast<size_t>(h.shape(0)), table, words, sizes, static_cast<size_t>(width), codes,
                static_cast<size_t>(threads));
    });
}

py::array additive_search_array(const py::object& dots_in, const py::object& gram_in, py::ssize_t beam,
                                py::ssize_t threads) {
    check_threads(threads);
    if (beam < 1 || beam > static_cast<py::ssize_t>(kMaxBeam)) {
        throw py::value_error("beam must be 1 to " + to_string(kMaxBeam) + ", got " + to_string(beam));
    }
    const py::array dots = checked(dots_in, "dots", "float32", 3), gram = checked(gram_in, "gram", "float32", 4);
    const py::ssize_t count = dots.shape(1);
    if (count < 1) throw py::value_error("dots must have at least one book, got shape " + shape_of(dots));
    const size_t words = checked_words(dots.shape(2), "dots");
    if (gram.shape(0) != count || gram.shape(1) != count || gram.shape(2) != dots.shape(2) ||
        gram.shape(3) != dots.shape(2)) {
        const std::string m = to_string(count), k = to_string(words);
        throw py::value_error("gram must have shape (" + m + ", " + m + ", " + k + ", " + k + ") for dots of shape " +
                              shape_of(dots) + ", got " + shape_of(gram));
    }
    const auto *scores = static_cast<const float*>(dots.data()), *products = static_cast<const float*>(gram.data());
    const auto books = static_cast<size_t>(count);
    return new_codes({dots.shape(0), beam, count}, words, [&](auto* codes) {
        additive_search(scores, static_cast<size_t>(dots.shape(0)), products, books, words, static_cast<size_t>(beam),
                        codes, static_cast<size_t>(threads));
    });
}

[[noreturn]] void throw_bad_index(const PriorRows& rows, const PriorTables& tables, size_t i) {
    const auto check = [i](const char* name, const int64_t* indices, size_t count, const char* what) {
        if (static_cast<uint64_t>(indices[i]) < count) return;
        throw py::index_error(std::string(name) + "[" + to_string(i) + "] is " + to_string(indices[i]) +
                              ", but there are " + to_string(count) + " " + what);
    };
    check("own", rows.own, tables.classes, "classes");
    check("other", rows.other, tables.classes, "classes");
    check("regime", rows.regime, tables.regimes, "regimes");
    throw py::index_error("an index of row " + to_string(i) + " was out of range and has changed since");
}

py::array class_prior_array(const py::object& own_in, const py::object& other_in, const py::object& regime_in,
                            const py::tuple& parts, const py::object& out, py::ssize_t threads) {
    check_threads(threads);
    const py::array own = checked(own_in, "own", "int64", 1), other = checked(other_in, "other", "int64", 1);
    const py::array regime = checked(regime_in, "regime", "int64", 1);
    const py::ssize_t n = own.shape(0);
    if (other.shape(0) != n || regime.shape(0) != n) {
        throw py::value_error("own, other and regime must have the same length, got " + to_string(n) + ", " +
                              to_string(other.shape(0)) + " and " + to_string(regime.shape(0)));
    }
    if (parts.size() != 5) {
        throw py::value_error("tables must be the 5 arrays A, B, ga, gb and g0, got " + to_string(parts.size()));
    }
    const py::array A = checked(parts[0], "A", "float32", 2), B = checked(parts[1], "B", "float32", 2);
    const py::array ga = checked(parts[2], "ga", "float32", 1), gb = checked(parts[3], "gb", "float32", 1);
    const py::array g0 = checked(parts[4], "g0", "float32", 2);
    if (B.shape(0) != A.shape(0) || B.shape(1) != A.shape(1) || g0.shape(1) != A.shape(1) ||
        gb.shape(0) != ga.shape(0) || g0.shape(0) != ga.shape(0)) {
        throw py::value_error("A, B, ga, gb and g0 must have shapes (C, R), (C, R), (L,), (L,) and (L, R), got " +
                              shape_of(A) + ", " + shape_of(B) + ", " + shape_of(ga) + ", " + shape_of(gb) + " and " +
                              shape_of(g0));
    }
    py::array h = output(out, "float32", n, A.shape(1));
    const auto floats = [](const py::array& array) { return static_cast<const float*>(array.data()); };
    const auto integers = [](const py::array& array) { return static_cast<const int64_t*>(array.data()); };
    const PriorTables tables = {floats(A),
                                floats(B),
                                floats(ga),
                                floats(gb),
                                floats(g0),
                                static_cast<size_t>(A.shape(0)),
                                static_cast<size_t>(ga.shape(0)),
                                static_cast<size_t>(A.shape(1))};
    const PriorRows rows = {integers(own), integers(other), integers(regime)};
    auto* target = static_cast<float*>(h.mutable_data());
    const auto count = static_cast<size_t>(n);
    size_t bad = 0;
    {
        py::gil_scoped_release unlocked;
        bad = class_prior(tables, rows, count, target, static_cast<size_t>(threads));
    }
    if (bad < count) throw_bad_index(rows, tables, bad);
    return h;
}

}  // namespace

void bind_search(py::module_& m) {
    m.def("nearest", &nearest_array, py::arg("h"), py::arg("books"), py::arg("sizes"), py::kw_only(),
          py::arg("threads") = 1);
    m.def("additive_search", &additive_search_array, py::arg("dots"), py::arg("gram"), py::arg("beam"), py::kw_only(),
          py::arg("threads") = 1);
    m.def("class_prior", &class_prior_array, py::arg("own"), py::arg("other"), py::arg("regime"), py::arg("tables"),
          py::kw_only(), py::arg("out") = py::none(), py::arg("threads") = 1);
}

}  // namespace vqlabel
