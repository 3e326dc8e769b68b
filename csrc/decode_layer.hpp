// A layer of a label decoder, computed in whole numbers: to = bias + weight x. No Python in here.
//
// Weights are 8-bit numbers with a scale for each output (what a file holds), in one plane or more that are summed.
// Rows x become 16-bit numbers with a scale each, so a product is within 2^-16 max|x| sum|weight| of the true one, and
// its sum is exact: the same bits on every path, in any batch.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "decode_bits.hpp"
#include "decode_lanes.hpp"
#include "decode_lanes_512.hpp"
#include "decode_room.hpp"

// So many steps of the next loop at a time: of 2, a product is faster; of all, arrays stay in registers.
#define VQ_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define VQ_UNROLL(steps) VQ_PRAGMA(unroll steps)
#elif defined(__GNUC__)
#define VQ_UNROLL(steps) VQ_PRAGMA(GCC unroll steps)
#else
#define VQ_UNROLL(steps)
#endif

namespace vqlabel {

constexpr size_t kMaxSegment = 512;  // so many products of up to 128 * 32767 have a sum below 2^31
constexpr size_t kInterleaved = 8;   // rows of words that lie side by side, two words of each in turn
constexpr float kMostWord = 32767;

constexpr size_t padded(size_t count, size_t to) { return (count + to - 1) / to * to; }

// Weights as they are given.
struct Matrix {
    const int8_t* numbers;  // [planes, outputs, inputs]
    const float* scale;     // [planes, outputs]
    const float* bias;      // [outputs]
    size_t planes, outputs, inputs;
};

// What one plane of weights makes of one segment of the inputs.
struct Term {
    size_t segment, at, columns;  // of the inputs: at is the first; columns are padded to 4
    Lined<int16_t> numbers;       // [outputs / 16][columns / 2][16][2]
    Lined<float> scale;           // [outputs], padded to 32

    size_t place(size_t output, size_t column) const {
        return output / 16 * 16 * columns + column / 2 * 32 + output % 16 * 2 + column % 2;
    }
};

struct ProductRows {
    const int16_t* x;  // interleaved
    size_t x_stride;
    const float *x_scale, *bias;  // [segments, count], [columns]
    float* to;
    size_t to_stride, columns, count;
};

// A few rows of a product, in a few columns from `column` on.
struct ProductTile {
    size_t column;
    const int16_t* x;
    const float *x_scale, *from;
    size_t from_stride;  // 0: the same for all rows
    float* to;
    size_t to_stride;
};

// The entries of one row in the tables of all books, and those of the row after it.
struct TableRow {
    const int16_t *const *entries, *const *next;  // [books]
    size_t books;
    const float *bias, *scale;  // [columns]
    float spread;
    float* to;
};

struct Affine {
    float offset, factor, shift;
};

// The sum of so many lanes, half of them added to the other half each time: one order on all paths. They are used up.
template <size_t kCount>
inline float tree_sum(float* lanes) {
    for (size_t i = 0; i < kCount / 2; ++i) lanes[i] += lanes[i + kCount / 2];
    if constexpr (kCount > 2) return tree_sum<kCount / 2>(lanes);
    return lanes[0];
}

template <size_t kCount>
inline float tree_maximum(float* lanes) {
    for (size_t i = 0; i < kCount / 2; ++i) lanes[i] = std::max(lanes[i], lanes[i + kCount / 2]);
    if constexpr (kCount > 2) return tree_maximum<kCount / 2>(lanes);
    return lanes[0];
}

namespace on_scalar {
#define VQ_PATH
#include "decode_kernel.hpp"
#undef VQ_PATH
}  // namespace on_scalar

#if VQ_X86 || VQ_NEON
namespace on_simd128 {
#define VQ_PATH VQ_TARGET_128
#include "decode_kernel.hpp"
#undef VQ_PATH
}  // namespace on_simd128
#endif

#if VQ_X86
namespace on_avx2 {
#define VQ_PATH VQ_TARGET_AVX2
#include "decode_kernel.hpp"
#undef VQ_PATH
}  // namespace on_avx2

namespace on_avx512 {
#define VQ_PATH VQ_TARGET_AVX512
#include "decode_kernel.hpp"
#undef VQ_PATH
}  // namespace on_avx512
#endif

struct DecodePath {
    Simd simd;
    decltype(&on_scalar::to_words) to_words;
    decltype(&on_scalar::product) product;
    decltype(&on_scalar::table_row) table_row;
    decltype(&on_scalar::gelu_row) gelu_row;
    decltype(&on_scalar::row_maximum) row_maximum;
    decltype(&on_scalar::power_row) power_row;
    decltype(&on_scalar::write_row) write_row;
};

inline DecodePath decode_path(Simd simd) {
#define VQ_DECODE_PATH(path)                                                                          \
    {                                                                                                 \
        simd, &path::to_words, &path::product, &path::table_row, &path::gelu_row, &path::row_maximum, \
            &path::power_row, &path::write_row                                                        \
    }
#if VQ_X86
    if (simd == Simd::avx512) return VQ_DECODE_PATH(on_avx512);
    if (simd == Simd::avx2) return VQ_DECODE_PATH(on_avx2);
#endif
#if VQ_X86 || VQ_NEON
    if (simd != Simd::scalar) return VQ_DECODE_PATH(on_simd128);
#endif
    return VQ_DECODE_PATH(on_scalar);
#undef VQ_DECODE_PATH
}

// Rows as words: room for them, so that nothing is allocated while rows are decoded.
struct WordRows {
    std::vector<int16_t> words;  // [rows / 8][inputs / 2, padded to 8][8][2]
    std::vector<float> scale;    // [segments, rows]
};

class Layer {
   public:
    // padding is the bias of the outputs that are there only to make their number a multiple of 32.
    Layer(const Matrix& matrix, float padding) : inputs_(matrix.inputs), bias_(padded(matrix.outputs, 32), padding) {
        std::copy_n(matrix.bias, matrix.outputs, bias_.begin());
        for (size_t at = 0; at < inputs_; at += kMaxSegment) {
            for (size_t plane = 0; plane < matrix.planes; ++plane) add_term(matrix, plane, at);
        }
    }

    size_t columns() const { return bias_.size(); }
    const float* bias() const { return bias_.data(); }
    WordRows room(size_t rows) const {
        return {std::vector<int16_t>(padded(rows, kInterleaved) * padded(inputs_, 16)),
                std::vector<float>(rows * (padded(inputs_, kMaxSegment) / kMaxSegment))};
    }

    float weight(size_t output, size_t input) const {
        float sum = 0;
        for (const Term& term : terms_) {
            if (input < term.at || input >= term.at + term.columns) continue;
            sum += term.scale[output] * static_cast<float>(term.numbers[term.place(output, input - term.at)]);
        }
        return sum;
    }

    // to [count, columns] of x [count, inputs].
    void operator()(const DecodePath& path, const float* x, size_t x_stride, size_t count, WordRows* room, float* to,
                    size_t to_stride) const {
        const size_t stride = padded(inputs_, 16);
        for (size_t row = 0; row < count; ++row) {
            for (size_t at = 0; at < inputs_; at += kMaxSegment) {
                int16_t* words = room->words.data() + row / kInterleaved * kInterleaved * stride +
                                 row % kInterleaved * 2 + at * kInterleaved;
                room->scale[at / kMaxSegment * count + row] =
                    path.to_words(x + row * x_stride + at, std::min(kMaxSegment, inputs_ - at), words);
            }
        }
        path.product(terms_.data(), terms_.size(),
                     {room->words.data(), stride, room->scale.data(), bias(), to, to_stride, columns(), count});
    }

   private:
    void add_term(const Matrix& matrix, size_t plane, size_t at) {
        const size_t size = std::min(kMaxSegment, inputs_ - at);
        Term term = {at / kMaxSegment, at, padded(size, 4), {}, Lined<float>(columns())};
        term.numbers.resize(columns() * term.columns);
        for (size_t output = 0; output < matrix.outputs; ++output) {
            const size_t row = plane * matrix.outputs + output;
            term.scale[output] = matrix.scale[row];
            for (size_t k = 0; k < size; ++k) {
                term.numbers[term.place(output, k)] = matrix.numbers[row * inputs_ + at + k];
            }
        }
        terms_.push_back(std::move(term));
    }

    size_t inputs_;
    Lined<float> bias_;
    std::vector<Term> terms_;
};

}  // namespace vqlabel
