// Decoder: check every argument, let go of the interpreter lock, call decode.hpp.
#include "checks.hpp"
#include "decode.hpp"

namespace vqlabel {
namespace {

constexpr py::ssize_t kMost = py::ssize_t{1} << 16;                    // of any size of a decoder but its classes
constexpr float kLeastTemperature = 1e-15f, kMostTemperature = 1e15f;  // as in kernels/_checks.py

const float* floats(const py::array& array) { return static_cast<const float*>(array.data()); }

size_t checked_size(py::ssize_t value, const char* what, py::ssize_t least, py::ssize_t most) {
    if (value < least || value > most) {
        throw py::value_error(std::string(what) + " must be " + to_string(least) + " to " + to_string(most) + ", got " +
                              to_string(value));
    }
    return static_cast<size_t>(value);
}

// An array of this shape; -1 stands for any size.
py::array shaped(const py::object& object, const char* what, const char* dtype, const std::vector<py::ssize_t>& shape) {
    py::array array = checked(object, what, dtype, static_cast<py::ssize_t>(shape.size()));
    std::string wanted;
    bool fits = true;
    for (size_t i = 0; i < shape.size(); ++i) {
        fits &= shape[i] < 0 || array.shape(static_cast<py::ssize_t>(i)) == shape[i];
        wanted += (i ? ", " : "") + (shape[i] < 0 ? std::string("any") : to_string(shape[i]));
    }
    if (fits) return array;
    throw py::value_error(std::string(what) + " must have shape (" + wanted + (shape.size() == 1 ? ",)" : ")") +
                          ", got " + text(array.attr("shape")));
}

// The numbers, scale and bias of one layer, held while this lives.
class LayerArrays {
   public:
    LayerArrays(const py::tuple& parts, const std::string& what) {
        if (parts.size() != 3) {
            throw py::value_error(what + " must be the 3 arrays numbers, scale and bias, got " +
                                  to_string(parts.size()));
        }
        numbers_ = shaped(parts[0], (what + " numbers").c_str(), "int8", {-1, -1, -1});
        const py::ssize_t planes = numbers_.shape(0), outputs = numbers_.shape(1);
        if (planes < 1 || outputs < 1) {
            throw py::value_error(what + " numbers must have at least one plane and one output, got shape " +
                                  text(numbers_.attr("shape")));
        }
        scale_ = shaped(parts[1], (what + " scale").c_str(), "float32", {planes, outputs});
        bias_ = shaped(parts[2], (what + " bias").c_str(), "float32", {outputs});
    }
    Matrix matrix() const {
        return {static_cast<const int8_t*>(numbers_.data()),
                floats(scale_),
                floats(bias_),
                static_cast<size_t>(numbers_.shape(0)),
                static_cast<size_t>(numbers_.shape(1)),
                static_cast<size_t>(numbers_.shape(2))};
    }

   private:
    py::array numbers_, scale_, bias_;
};

Books checked_books(const py::tuple& sizes, const py::object& words_in, const py::object& owner_in) {
    if (sizes.size() != 3) throw py::value_error("sizes must be G, nbits and R, got " + text(sizes));
    Books books = {};
    books.count = checked_size(sizes[0].cast<py::ssize_t>(), "G", 0, kMost);
    books.nbits = static_cast<int>(checked_size(sizes[1].cast<py::ssize_t>(), "nbits", 1, 16));
    books.width = checked_size(sizes[2].cast<py::ssize_t>(), "R", 1, kMost);
    const auto R = static_cast<py::ssize_t>(books.width), K = py::ssize_t{1} << books.nbits;
    if (owner_in.is_none()) {
        const py::array words = shaped(words_in, "books", "float32", {static_cast<py::ssize_t>(books.entries()), R});
        books.words.assign(floats(words), floats(words) + books.entries() * books.width);
        return books;
    }
    const py::array words = shaped(words_in, "books", "float32", {R, K});
    const py::array owner = shaped(owner_in, "owner", "int64", {R});
    books.words.resize(books.size() * books.width);
    for (size_t r = 0; r < books.width; ++r) {
        const auto book = static_cast<const int64_t*>(owner.data())[r];
        if (book < 0 || static_cast<uint64_t>(book) >= books.count) {
            throw py::value_error("owner[" + to_string(r) + "] is " + to_string(book) + ", but there are " +
                                  to_string(books.count) + " books");
        }
        books.owner.push_back(static_cast<size_t>(book));
        for (size_t k = 0; k < books.size(); ++k) {  // turned: the dimensions of a codeword side by side
            books.words[k * books.width + r] = floats(words)[r * books.size() + k];
        }
    }
    return books;
}

std::unique_ptr<Decoder> make_decoder(const py::tuple& sizes, const py::object& words, const py::object& owner,
                                      const py::tuple& output_in, const py::object& inner_in) {
    Books books = checked_books(sizes, words, owner);
    const LayerArrays output_arrays(output_in, "output");
    const Matrix output = output_arrays.matrix();
    const size_t R = books.width;
    if (inner_in.is_none()) {
        if (output.inputs == R) return std::make_unique<Decoder>(std::move(books), output, nullptr, true);
        throw py::value_error("output numbers must have the " + to_string(R) + " columns of h, got " +
                              to_string(output.inputs));
    }
    const LayerArrays inner_arrays(inner_in.cast<py::tuple>(), "inner");
    const Matrix inner = inner_arrays.matrix();
    const size_t H = inner.outputs;
    if (inner.inputs != R) {
        throw py::value_error("inner numbers must have the " + to_string(R) + " columns of h, got " +
                              to_string(inner.inputs));
    }
    if (output.inputs != H && output.inputs != R + H) {
        throw py::value_error("output numbers must have the " + to_string(H) + " columns of the hidden layer, or " +
                              to_string(R + H) + " with those of h before them, got " + to_string(output.inputs));
    }
    return std::make_unique<Decoder>(std::move(books), output, &inner, output.inputs == R + H);
}

Output output_from_name(const std::string& name) {
    if (name == "probs") return Output::probs;
    if (name == "log_probs") return Output::log_probs;
    if (name == "logits") return Output::logits;
    throw py::value_error("output must be 'probs', 'log_probs' or 'logits', got '" + name + "'");
}

float checked_temperature(double temperature) {
    const auto T = static_cast<float>(temperature);
    if (T >= kLeastTemperature && T <= kMostTemperature) return T;
    throw py::value_error("temperature must be 1e-15 to 1e15, got " + text(py::float_(temperature)));
}

py::array decode_array(Decoder& decoder, const py::object& rows_in, const py::object& out_in, const std::string& output,
                       double temperature, const py::object& h0_in, const py::object& spread_in, py::ssize_t threads) {
    check_threads(threads);
    const auto G = decoder.books().count;
    const auto row_bytes = static_cast<py::ssize_t>(packed_bytes(G, decoder.books().nbits));
    const py::array rows = shaped(rows_in, "rows", "uint8", {-1, row_bytes});
    const py::ssize_t n = rows.shape(0);
    DecodeCall call = {};
    call.packed = static_cast<const uint8_t*>(rows.data());
    call.count = static_cast<size_t>(n);
    call.output = output_from_name(output);
    call.temperature = checked_temperature(temperature);
    call.threads = static_cast<size_t>(threads);
    py::array h0, spread;
    if (!h0_in.is_none()) {
        h0 = shaped(h0_in, "h0", "float32", {n, static_cast<py::ssize_t>(decoder.books().width)});
        call.h0 = floats(h0);
    }
    if (!spread_in.is_none()) {
        spread = shaped(spread_in, "spread", "float32", {n});
        call.spread = floats(spread);
    }
    const bool half = py::isinstance<py::array>(out_in) && py::dtype("float16").equal(out_in.attr("dtype"));
    py::array out =
        shaped(out_in, "out", half ? "float16" : "float32", {n, static_cast<py::ssize_t>(decoder.classes())});
    if (!out.writeable()) throw py::value_error("out is read-only");
    if (half) {
        call.halves = static_cast<uint16_t*>(out.mutable_data());
    } else {
        call.floats = static_cast<float*>(out.mutable_data());
    }
    size_t bad = 0;
    {
        py::gil_scoped_release unlocked;
        bad = decoder(call);
    }
    if (bad < call.count) {
        throw py::value_error("row " + to_string(bad) + " has " + output +
                              " that float16 cannot hold: beyond 65504, or not numbers; use float32");
    }
    return out;
}

}  // namespace

void bind_decode(py::module_& m) {
    py::class_<Decoder>(m, "Decoder")
        .def(py::init(&make_decoder), py::arg("sizes"), py::arg("books"), py::arg("owner"), py::arg("output"),
             py::arg("inner") = py::none())
        .def("takes_tables", &Decoder::takes_tables, py::arg("has_h0"))
        .def("decode", &decode_array, py::arg("rows"), py::arg("out"), py::kw_only(), py::arg("output") = "probs",
             py::arg("temperature") = 1.0, py::arg("h0") = py::none(), py::arg("spread") = py::none(),
             py::arg("threads") = 1);
}

}  // namespace vqlabel
