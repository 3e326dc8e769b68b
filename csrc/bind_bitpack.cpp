// pack, unpack and gather_unpack: check every argument, let go of the interpreter lock, call bitpack.hpp.
#include "bitpack.hpp"
#include "checks.hpp"

namespace vqlabel {
namespace {

constexpr py::ssize_t kMaxCount = py::ssize_t{1} << 31;  // codes in a row: nothing below can overflow

// Any object that exports contiguous bytes, held while this lives: a read-only memory map too.
class ByteView {
   public:
    explicit ByteView(const py::object& object) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
    }
    ~ByteView() { PyBuffer_Release(&view_); }
    ByteView(const ByteView&) = delete;
    ByteView& operator=(const ByteView&) = delete;
    const uint8_t* data() const { return static_cast<const uint8_t*>(view_.buf); }
    size_t size() const { return static_cast<size_t>(view_.len); }

   private:
    Py_buffer view_{};
};

void check_nbits(py::ssize_t nbits) {
    if (nbits < 1 || nbits > kMaxBits) {
        throw py::value_error("nbits must be 1 to " + to_string(kMaxBits) + ", got " + to_string(nbits));
    }
}

void check_count(py::ssize_t count) {
    if (count < 0 || count > kMaxCount) {
        throw py::value_error("count, the codes in a row, must be 0 to 2**31, got " + to_string(count));
    }
}

const char* code_dtype(int nbits) { return nbits <= 8 ? "uint8" : nbits <= 16 ? "uint16" : "uint32"; }

// Calls work with a null pointer of the type that holds codes of this width.
template <class Work>
void with_code_type(int nbits, const Work& work) {
    if (nbits <= 8) return work(static_cast<uint8_t*>(nullptr));
    if (nbits <= 16) return work(static_cast<uint16_t*>(nullptr));
    work(static_cast<uint32_t*>(nullptr));
}

template <class Code>
[[noreturn]] void throw_code_too_large(const Code* codes, py::ssize_t total, int nbits, py::ssize_t count) {
    py::ssize_t i = 0;
    while (i < total - 1 && !(static_cast<uint32_t>(codes[i]) >> nbits)) ++i;
    throw py::value_error("codes[" + to_string(i / count) + ", " + to_string(i % count) + "] is " +
                          to_string(codes[i]) + ", but " + to_string(nbits) + " bits hold at most " +
                          to_string((1 << nbits) - 1));
}

py::array pack_array(const py::object& codes_in, py::ssize_t bits, const py::object& out, py::ssize_t threads) {
    check_nbits(bits);
    const int nbits = static_cast<int>(bits);
    check_threads(threads);
    const py::array codes = checked(codes_in, "codes", code_dtype(nbits), 2);
    const py::ssize_t rows = codes.shape(0), count = codes.shape(1);
    check_count(count);
    const auto row_bytes = static_cast<py::ssize_t>(packed_bytes(static_cast<size_t>(count), nbits));
    py::array packed = output(out, "uint8", rows, row_bytes);
    with_code_type(nbits, [&](auto* type) {
        using Code = std::remove_pointer_t<decltype(type)>;
        const auto* data = static_cast<const Code*>(codes.data());
        auto* target = static_cast<uint8_t*>(packed.mutable_data());
        uint32_t seen = 0;
        {
            py::gil_scoped_release unlocked;
            seen = pack(data, static_cast<size_t>(rows), nbits, static_cast<size_t>(count), target,
                        static_cast<size_t>(threads));
        }
        if (seen >> nbits) throw_code_too_large(data, rows * count, nbits, count);
    });
    return packed;
}

py::array unpack_array(const py::object& packed_in, py::ssize_t bits, py::ssize_t count, const py::object& out,
                       py::ssize_t threads) {
    check_nbits(bits);
    const int nbits = static_cast<int>(bits);
    check_count(count);
    check_threads(threads);
    const py::array packed = checked(packed_in, "packed", "uint8", 2);
    const py::ssize_t rows = packed.shape(0);
    const size_t row_bytes = packed_bytes(static_cast<size_t>(count), nbits);
    if (static_cast<size_t>(packed.shape(1)) != row_bytes) {
        throw py::value_error(to_string(count) + " codes of " + to_string(nbits) + " bits need rows of " +
                              to_string(row_bytes) + " bytes, got " + to_string(packed.shape(1)));
    }
    py::array codes = output(out, code_dtype(nbits), rows, count);
    with_code_type(nbits, [&](auto* type) {
        using Code = std::remove_pointer_t<decltype(type)>;
        const auto* data = static_cast<const uint8_t*>(packed.data());
        auto* target = static_cast<Code*>(codes.mutable_data());
        py::gil_scoped_release unlocked;
        unpack(data, static_cast<size_t>(rows), nbits, static_cast<size_t>(count), target,
               static_cast<size_t>(threads));
    });
    return codes;
}

py::array gather_unpack_array(const py::object& buffer, py::ssize_t row_bytes, const py::object& indices_in,
                              py::ssize_t bits, py::ssize_t count, const py::object& out, py::ssize_t threads) {
    check_nbits(bits);
    const int nbits = static_cast<int>(bits);
    check_count(count);
    check_threads(threads);
    const size_t needed = packed_bytes(static_cast<size_t>(count), nbits);
    if (row_bytes < 1 || static_cast<size_t>(row_bytes) < needed) {
        throw py::value_error(to_string(count) + " codes of " + to_string(nbits) + " bits need rows of at least " +
                              to_string(needed < 1 ? 1 : needed) + " bytes, got row_bytes=" + to_string(row_bytes));
    }
    const ByteView bytes(buffer);
    if (bytes.size() % static_cast<size_t>(row_bytes) != 0) {
        throw py::value_error("buffer has " + to_string(bytes.size()) + " bytes, not a whole number of rows of " +
                              to_string(row_bytes));
    }
    const size_t rows = bytes.size() / static_cast<size_t>(row_bytes);
    const py::array indices = checked(indices_in, "indices", "int64", 1);
    const auto n = static_cast<size_t>(indices.shape(0));
    py::array codes = output(out, code_dtype(nbits), indices.shape(0), count);
    with_code_type(nbits, [&](auto* type) {
        using Code = std::remove_pointer_t<decltype(type)>;
        const auto* positions = static_cast<const int64_t*>(indices.data());
        auto* target = static_cast<Code*>(codes.mutable_data());
        size_t bad = 0;
        {
            py::gil_scoped_release unlocked;
            bad = gather_unpack(bytes.data(), rows, static_cast<size_t>(row_bytes), positions, n, nbits,
                                static_cast<size_t>(count), target, static_cast<size_t>(threads));
        }
        if (bad < n) {
            throw py::index_error("indices[" + to_string(bad) + "] is " + to_string(positions[bad]) +
                                  ", but there are " + to_string(rows) + " rows");
        }
    });
    return codes;
}

}  // namespace

void bind_bitpack(py::module_& m) {
    simd_in_use();  // a wrong VQLABEL_SIMD is an ImportError, not a surprise at the first call
    m.def("pack", &pack_array, py::arg("codes"), py::arg("nbits"), py::kw_only(), py::arg("out") = py::none(),
          py::arg("threads") = 1);
    m.def("unpack", &unpack_array, py::arg("packed"), py::arg("nbits"), py::arg("count"), py::kw_only(),
          py::arg("out") = py::none(), py::arg("threads") = 1);
    m.def("gather_unpack", &gather_unpack_array, py::arg("buffer"), py::arg("row_bytes"), py::arg("indices"),
          py::arg("nbits"), py::arg("count"), py::arg("out") = py::none(), py::arg("threads") = 1);
    m.def("simd", [] { return std::string(simd_name(simd_in_use())); });
    m.def("use_simd", [](const std::string& name) { simd_in_use() = simd_from_name(name); });
}

}  // namespace vqlabel
